"""Runs the command line as a user would: a real process, a real Ray, a real Prefect server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.config import load_config
from flows.runs import open_run
from flows.work import perform
from storage.paths import Location
from tasks.executor import SerialExecutor

ROOT = Path(__file__).resolve().parents[2]

TINY = (
    "dataset.count=2000",
    "trajectories.count=600",
    "trajectories.chunk_rows=64",
    "trajectories.steps=8",
    "generator.steps=40",
    "generator.batch_size=128",
    "generator.network.width=32",
    "evaluation.samples=100",
    "evaluation.repeats=3",
)


def arguments(*words: str, root: Path, changes: tuple[str, ...] = ()) -> list[str]:
    """Give the words of a command that is run in the folder around ``root``: users give relative roots."""
    sets = [part for change in changes for part in ("--set", change)]
    return [sys.executable, "-m", "flows.cli", *words, "--root", root.name, *sets]


SERVER: dict[str, str] = {}  # leads commands to one that runs, while a test asks for one_server


def environment(root: Path) -> dict[str, str]:
    """Give that of a command; its private Prefect database is the session's, which ``prefect_home`` makes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CHARFLOW_ROOT"))}
    return kept | SERVER | {"XDG_STATE_HOME": str(root.parent.parent / "state"), "PYTHONPATH": str(ROOT)}


def start(*words: str, root: Path, changes: tuple[str, ...] = (), **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        arguments(*words, root=root, changes=changes),
        env=environment(root) | variables,
        cwd=root.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def charflow(*words: str, root: Path, changes: tuple[str, ...] = (), code: int = 0) -> tuple[str, str]:
    """Run to the end, check the exit code, and give both outputs."""
    process = start(*words, root=root, changes=changes)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, f"exit {process.returncode}, not {code}\n{out}\n{err}"
    return out, err


def charflow_json(*words: str, root: Path, changes: tuple[str, ...] = ()) -> dict[str, Any]:
    out, _ = charflow(*words, "--json", root=root, changes=changes)
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def told(capsys: pytest.CaptureFixture[str], *words: str, root: Location, code: int = 0) -> str:
    """Run a command that needs no engine in this process, check the exit code, and give what it says on stdout."""
    with pytest.raises(SystemExit) as ended:
        main([*words, "--root", str(root)])
    found = capsys.readouterr()
    assert ended.value.code == code, found
    return found.out


def integrate_here(root: Location, *, changes: tuple[str, ...]) -> dict[str, Any]:
    """Bring the gaussian preset's trajectories to their end in this process, and give what the step tells."""
    config = load_config("gaussian", changes=changes)
    run = open_run(config, root=root, name="", source="gaussian", until="integrate")
    with run.in_progress():
        for step in run.pending:
            perform(step, run, SerialExecutor(), progress=lambda *_: None)
    return dict(run.record.steps["integrate"].summary)
