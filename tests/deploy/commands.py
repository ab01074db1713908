"""Checks a command as the program itself would: charflow, ray and prefect read its words with their own parsers."""

import contextlib
import io
import shlex
from collections.abc import Sequence

import click
from cyclopts.exceptions import CycloptsError

from flows import cli
from flows.config import load_config
from storage.errors import InputError
from tests.rays import import_ray


def complaints(words: Sequence[str]) -> list[str]:
    """Give what is wrong with a command's words; empty for a sound one."""
    match words:
        case ["bash", "-euc", script]:
            return [complaint for line in lines(script) for complaint in complaints(shlex.split(line))]
        case ["exec", *rest]:
            return complaints(rest)
        case ["deploy/beside.sh", *rest] if "--" in rest:
            at = rest.index("--")
            return [*complaints(rest[:at]), *complaints(rest[at + 1 :])]
        case ["charflow", *rest]:
            return _charflow(rest)
        case ["ray", *rest]:
            return _ray(rest)
        case ["prefect", *rest]:
            return _prefect(rest)
    return [f"{shlex.join(words)}: is no command of the image"]


def lines(script: str) -> list[str]:
    """Give a script's commands, one a line; continued lines are joined and comments left out."""
    joined = script.replace("\\\n", " ")
    return [line for line in map(str.strip, joined.splitlines()) if line and not line.startswith("#")]


def _charflow(words: Sequence[str]) -> list[str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = cli._parser().parse_args(words)
    except SystemExit:
        return [f"charflow {shlex.join(words)}: {' '.join(said.getvalue().split())}"]
    if words[0] != "run":
        return []
    try:
        load_config(options.config, changes=options.set)
    except InputError as error:
        return [f"charflow {shlex.join(words)}: {error}"]
    return []


def _ray(words: Sequence[str]) -> list[str]:
    command = ray_command(words[0]) if words else None
    if command is None:
        return [f"ray {shlex.join(words)}: is no command of ray"]
    try:
        command.make_context(words[0], list(words[1:]))
    except click.ClickException as error:
        return [f"ray {shlex.join(words)}: {error.format_message()}"]
    return []


def ray_command(name: str) -> click.Command | None:
    """Give a command of ray by its name."""
    import_ray()
    from ray.scripts.scripts import cli as ray  # slow

    found: click.Command | None = ray.commands.get(name)
    return found


def _prefect(words: Sequence[str]) -> list[str]:
    from prefect.cli._app import _app  # slow

    try:
        _app.parse_args(list(words), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return [f"prefect {shlex.join(words)}: {error}"]
    return []
