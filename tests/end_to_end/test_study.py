"""A study as a user meets it: cut short, taken up again by the whole command, then repeated."""

import json
import time
from pathlib import Path

import pytest

from flows.studies import open_study
from flows.work import perform
from storage.catalog import Catalog
from tasks.executor import SerialExecutor
from tests.end_to_end.command import charflow_json, told

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_signals", "one_server")]

SWEEPS = ("trajectories.steps=4,8,16", "trajectories.solver=euler,heun")
CHANGES = (
    "velocity.kind=kernel",
    "velocity.bandwidth=0.3",
    "interpolant.kind=linear",
    "dataset.count=200",
    "trajectories.count=100",
    "trajectories.chunk_rows=64",
)
SETS = [part for change in CHANGES for part in ("--set", change)]
ARGUMENTS = (
    *("study", "gaussian", "--until", "integrate"),
    *(word for sweep in SWEEPS for word in ("--sweep", sweep)),
)


def begin_here(root: Path, *, points: int) -> None:
    """Do the first points of the study in this process, and no more."""
    study = open_study("gaussian", sweeps=SWEEPS, changes=CHANGES, root=root, name="", until="integrate")
    for member in study.pending[:points]:
        run = study.claim(member)
        with run.in_progress():
            for step in run.pending:
                perform(step, run, SerialExecutor(), progress=lambda *_: None)


def test_a_study_cut_short_goes_on_and_repeated_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    begin_here(root, points=2)
    first = {run.name: run.steps for run in Catalog(root).runs()}
    assert len(first) == 2

    found = charflow_json(*ARGUMENTS, root=root, changes=CHANGES)
    assert list(found) == ["study", "path", "points", "orders", "reference", "reference_error"]
    assert (found["study"], found["path"]) == ("gaussian-study", str(root / "gaussian-study"))
    assert len(found["points"]) == 6
    assert found["reference"] == "heun with 64 uniform steps, run gaussian-study-reference"
    euler, heun = found["orders"]
    # of a smooth velocity, over three points that are not yet fine
    assert [euler["observed"], heun["observed"]] == pytest.approx([1, 2], abs=0.3)

    heun_errors = [point["error"] for point in found["points"] if point["values"]["trajectories.solver"] == "heun"]
    assert found["reference_error"] == pytest.approx(heun_errors[-1] / 15)

    runs = {run.name: run for run in Catalog(root).runs()}
    assert len(runs) == 7
    assert {name: runs[name].steps for name in first} == first  # what was done stayed as it was
    assert {stage.holder for run in runs.values() for stage in (run.steps["ingest"], run.steps["fit_velocity"])} == {
        "gaussian-study-steps-4-solver-euler"
    }
    record = json.loads((root / "gaussian-study" / "study.json").read_text())
    assert record["result"] == {key: value for key, value in found.items() if key != "path"}

    page = root / "gaussian-study" / "report" / "index.html"
    page.unlink()
    assert json.loads(told(capsys, *ARGUMENTS, *SETS, "--json", root=root)) == found  # measured anew, without an engine

    began = time.monotonic()
    out = told(capsys, *ARGUMENTS, *SETS, root=root)
    assert time.monotonic() - began < 5  # no engine starts; a second, more on a busy machine
    assert "nothing to do: study gaussian-study is finished" in out
    assert f"page: {page}" in out
