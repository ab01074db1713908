"""beside.sh: a Ray node and a Prefect worker end together, and runs are asked to end before."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY
from tests.deploy.slurm import lint

SCRIPT = DEPLOY / "beside.sh"
# stands for Prefect's worker: asked to end it waits for its run, a process of its own session
WORKER = """
import signal, subprocess, sys, time

signal.signal(signal.SIGTERM, lambda *_: None)
run = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], start_new_session=True)
while True:
    time.sleep(0.05)
    run.poll()
"""
RUN = """
import pathlib, signal, sys, time

said = pathlib.Path(sys.argv[1])

def end(*_):
    time.sleep(0.5)  # its record takes a moment
    said.write_text("in order")
    sys.exit()

signal.signal(signal.SIGTERM, end)
said.write_text("at work")
time.sleep(600)
"""


def start(folder: Path, *, node_seconds: int) -> "subprocess.Popen[str]":
    node = [sys.executable, "-c", f"import time; time.sleep({node_seconds})"]
    worker = [sys.executable, "-c", WORKER, RUN, str(folder / "said")]
    script = subprocess.Popen(["bash", str(SCRIPT), *node, "--", *worker], stderr=subprocess.PIPE, text=True)
    while not (folder / "said").exists():
        assert script.poll() is None
        time.sleep(0.05)
    return script


def test_it_is_sound() -> None:
    assert lint(SCRIPT.read_text()) == []
    assert SCRIPT.stat().st_mode & 0o111


@pytest.mark.parametrize(("node_seconds", "code"), [(600, 0), (2, 1)], ids=["asked to end", "the node is lost"])
def test_runs_leave_their_records_in_order(node_seconds: int, code: int, tmp_path: Path) -> None:
    script = start(tmp_path, node_seconds=node_seconds)
    if code == 0:
        script.send_signal(signal.SIGTERM)
    _, said = script.communicate(timeout=30)
    assert script.returncode == code, said
    assert (tmp_path / "said").read_text() == "in order"
    assert ("one of the two ended" in said) is (code == 1)


@pytest.mark.parametrize("words", [[], ["ray", "start"], ["--", "prefect"]])
def test_it_needs_two_commands(words: list[str]) -> None:
    done = subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
