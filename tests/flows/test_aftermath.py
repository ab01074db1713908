"""Records that say running though their process is gone are set right, and no others."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.aftermath import after_cancellation, after_crash
from storage.catalog import Catalog
from tests.flows.test_runs import finish, open_moons


def ended_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def left(root: Path, *, pid: int, host: str = "", status: str = "running") -> Catalog:
    """Leave a run as a process leaves it that is killed, and give its catalog."""
    run = finish(open_moons(root), "ingest")
    catalog = Catalog(root)
    catalog.update(catalog.get(run.record.name), status=status, pid=pid, host=host or os.uname().nodename)
    return catalog


def call(hook: Any, root: object, name: str = "moons") -> None:
    flow_run = SimpleNamespace(name="night", parameters={"root": str(root), "name": name})
    hook(None, flow_run, SimpleNamespace(message="exit code -9"))


def test_a_crash_is_recorded_with_an_account(tmp_path: Path) -> None:
    catalog = left(tmp_path, pid=ended_pid())
    call(after_crash, tmp_path)
    record = catalog.get("moons")
    assert (record.status, record.error) == (
        "failed",
        "the process of flow run night ended without a word: exit code -9",
    )
    assert record.error in (tmp_path / "moons" / "failure.md").read_text()


def test_a_process_on_another_host_is_gone_when_prefect_says_so(tmp_path: Path) -> None:
    catalog = left(tmp_path, pid=os.getpid(), host="elsewhere")
    call(after_crash, tmp_path)
    assert catalog.get("moons").status == "failed"


def test_a_run_that_another_process_works_on_is_let_be(tmp_path: Path) -> None:
    catalog = left(tmp_path, pid=os.getpid())
    call(after_crash, tmp_path)
    call(after_cancellation, tmp_path)
    assert catalog.get("moons").status == "running"


@pytest.mark.parametrize("status", ["running", "failed"])
def test_what_was_cancelled_was_interrupted_even_if_its_end_looked_like_a_failure(tmp_path: Path, status: str) -> None:
    catalog = left(tmp_path, pid=ended_pid(), status=status)
    call(after_cancellation, tmp_path)
    record = catalog.get("moons")
    assert (record.status, record.error) == ("interrupted", "")
    assert "flow run night was cancelled" in (tmp_path / "moons" / "failure.md").read_text()


@pytest.mark.parametrize("status", ["finished", "partial", "interrupted"])
def test_what_ended_stays_as_it_is(tmp_path: Path, status: str) -> None:
    catalog = left(tmp_path, pid=ended_pid(), status=status)
    call(after_crash, tmp_path)
    call(after_cancellation, tmp_path)
    assert catalog.get("moons").status == status


def test_parameters_that_name_no_run_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    call(after_crash, tmp_path, name="nobody")
    call(after_crash, "relative")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
