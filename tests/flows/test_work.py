"""What a step is asked for: what could not be measured in the end is refused, and what was simulated is counted."""

from pathlib import Path

import pytest

from flows.runs import Run
from flows.work import _simulated, perform
from storage.catalog import stage_record
from storage.errors import InputError
from tasks.executor import SerialExecutor
from tests.flows.test_runs import open_archive, write_archive


def ingested(root: Path) -> Run:
    """Bring three rows of data as far as their ingest."""
    changes = ("velocity.kind=kernel", "velocity.bandwidth=0.1")
    run = open_archive(root, write_archive(root / "x.npz", 1.0), changes=changes)
    perform("ingest", run, SerialExecutor(), progress=lambda *_: None)
    return run


def test_data_that_could_not_be_measured_are_refused_before_any_training(tmp_path: Path) -> None:
    run = ingested(tmp_path)
    for step in ("fit_velocity", "train_generator"):
        with pytest.raises(InputError, match=r"dataset must have at least 4 rows for an evaluation, .* got 3"):
            perform(step, run, SerialExecutor(), progress=lambda *_: None)


def test_a_run_that_is_not_to_be_measured_takes_any_data(tmp_path: Path) -> None:
    run = ingested(tmp_path)
    run.until = "train_generator"
    perform("fit_velocity", run, SerialExecutor(), progress=lambda *_: None)
    assert run.serves("fit_velocity")


@pytest.mark.parametrize(("simulated", "expected"), [(4, 1000), (1, 250), (0, 0)])
def test_trajectories_that_were_there_before_are_not_counted(simulated: int, expected: int) -> None:
    summary = {"count": 1000, "chunks": 4, "simulated": simulated}
    stage = stage_record(key="k", holder="r", seconds=1.0, summary=summary)
    assert _simulated({"integrate": stage}) == expected
    assert _simulated({}) == 0
