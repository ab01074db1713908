"""The runbook: every command in it that is charflow's, Prefect's or Ray's is understood, and what it names exists."""

import re
import shlex

import pytest

from tests.deploy import commands
from tests.deploy.files import DEPLOY, ROOT

TEXT = (DEPLOY / "README.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```$", TEXT, flags=re.M | re.S)
_COMMAND = re.compile(
    r"^(?:[A-Z_]+=\S+ )*(?:docker compose \S+ \S+ exec (?:--env \S+ )?worker )?(?:\.venv/bin/)?"
    r"((?:charflow|prefect|ray) .*)$"
)


def programs(text: str) -> list[list[str]]:
    """Give the words of each command of the three programs, without what stands before it and redirections after it."""
    found = [match[1] for line in commands.lines(text) if (match := _COMMAND.match(line))]
    return [shlex.split(re.sub(r"\s2?>>? .*$", "", line)) for line in found]


COMMANDS = [words for block in BLOCKS for words in programs(block)]


def test_there_are_commands_of_each_section() -> None:
    assert len(COMMANDS) >= 12
    assert {words[0] for words in COMMANDS} >= {"charflow", "prefect"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_understood(words: list[str]) -> None:
    assert commands.complaints(words) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("charflow show", "charflow shwo"), ("worker start", "worker strat"), ("--ray 127", "--rya 127")],
)
def test_a_misspelt_command_is_noticed(right: str, wrong: str) -> None:
    text = "\n".join(BLOCKS)
    assert right in text
    assert [words for words in programs(text.replace(right, wrong)) if commands.complaints(words)] != []


def test_the_files_that_it_names_exist() -> None:
    named = set(re.findall(r"\bdeploy/[\w./-]*\w", TEXT)) - {"deploy/.env"}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
