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


def call(hook: Any, root: object, name: str = "moons", *, pid: int | None = None) -> None:
    number = None if pid is None else str(pid)
    flow_run = SimpleNamespace(name="night", parameters={"root": str(root), "name": name}, infrastructure_pid=number)
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


@pytest.mark.parametrize("hook", [after_crash, after_cancellation])
def test_a_run_that_another_host_works_on_is_let_be_by_a_flow_that_waited_for_it(hook: Any, tmp_path: Path) -> None:
    catalog = left(tmp_path, pid=ended_pid(), host="elsewhere")
    call(hook, tmp_path)
    assert catalog.get("moons").status == "running"
    assert not (tmp_path / "moons" / "failure.md").exists()


@pytest.mark.parametrize(("own", "status"), [(True, "interrupted"), (False, "failed")])
def test_a_cancelled_flow_changes_how_its_own_work_ended_and_no_others(own: bool, status: str, tmp_path: Path) -> None:
    pid = ended_pid()
    catalog = left(tmp_path, pid=pid, status="failed")
    call(after_cancellation, tmp_path, pid=pid if own else pid + 1)
    assert catalog.get("moons").status == status


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
