"""Who hears of the steps of a command or of a Prefect worker's flow: bars, lines or the log, and the metrics."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from flows import logs
from flows.progress import current_listener, told
from flows.watching import watched
from storage.errors import InputError
from tests.end_to_end.command import ROOT, environment

ASKED = """
import logging, sys
import prefect.main
from prefect.logging.configuration import setup_logging
setup_logging()
from flows.progress import told
from flows.watching import watched
with watched(), told("integrate", run="moons"), watched():
    logging.getLogger("prefect.flow_runs").warning("theirs")
    logging.getLogger("uvicorn").warning("a server's")
"""


def test_lines_are_told_once_though_a_flow_asks_for_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHARFLOW_METRICS", raising=False)
    monkeypatch.setattr(logs, "_kind", "text")
    out = io.StringIO()
    with watched(Console(file=out)), watched(), told("integrate"):
        assert len(out.getvalue().splitlines()) == 1
    assert len(out.getvalue().splitlines()) == 2
    with told("ingest"):
        assert len(out.getvalue().splitlines()) == 2


def test_what_cannot_be_had_is_bad_input_and_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARFLOW_METRICS", "here")
    monkeypatch.setattr(logs, "_kind", "text")
    before = current_listener()
    with pytest.raises(InputError, match="CHARFLOW_METRICS"), watched(Console(file=io.StringIO())):
        pass
    assert current_listener() is before


@pytest.mark.slow
def test_a_flow_that_no_command_calls_logs_json_where_the_environment_asks(tmp_path: Path) -> None:
    """As in a Prefect worker's process, where Prefect has set up its own handlers before."""
    asked = environment(tmp_path) | {"CHARFLOW_LOG": "json", "CHARFLOW_METRICS": "0", "DO_NOT_TRACK": "1"}
    asked |= {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-c", ASKED]
    done = subprocess.run(command, env=asked, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    metrics, began, *others, ended = (json.loads(line) for line in done.stderr.splitlines())
    assert metrics["port"] > 0
    assert (began["event"], began["run"], began["step"]) == ("began", "moons", "integrate")
    assert {(record["logger"], record["message"]) for record in others} >= {("uvicorn", "a server's")}
    assert (ended["event"], ended["seconds"] >= 0) == ("ended", True)
    assert done.stdout == ""
