"""What a run says of what it lost: nodes, chunks given out anew, restarts; nothing where nothing was."""

from pathlib import Path
from typing import Any

import pytest

from flows.losses import losses_of, step_losses
from flows.work import perform
from storage.catalog import RunRecord, stage_record
from tasks.capacity import Node
from tasks.executor import SerialExecutor
from tasks.session import tell_lost
from tests.end_to_end.command import told
from tests.flows.test_runs import open_moons


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ({}, ""),
        ({"again": [], "restarts": 0}, ""),
        ({"again": [7]}, "gave 1 chunk to one more worker (7)"),
        ({"again": list(range(8))}, "gave 8 chunks to one more worker (0 1 2 3 4 ...)"),
        ({"restarts": 1}, "started its workers again once, from the newest checkpoint"),
        (
            {"restarts": 3, "nodes_lost": ["10.0.0.1 (ab)", "10.0.0.2 (cd)"]},
            "lost 2 nodes 10.0.0.1 (ab), 10.0.0.2 (cd); started its workers again 3 times, from the newest checkpoint",
        ),
    ],
)
def test_a_summary_tells_what_its_step_lost(summary: dict[str, Any], words: str) -> None:
    assert step_losses(summary) == words


def test_a_run_tells_of_its_own_steps_alone() -> None:
    summary = {"again": [1]}
    steps = {
        "integrate": stage_record(key="k", holder="mine", seconds=1.0, summary=summary),
        "fit_velocity": stage_record(key="k", holder="other", seconds=1.0, summary=summary),
    }
    record = RunRecord(name="mine", identity="i", config="c", created="", updated="", source_digest="", steps=steps)
    assert losses_of(record) == ["integrate: gave 1 chunk to one more worker (1)"]


class Shrinking(SerialExecutor):
    """On a cluster that had lost one node before, and is seen to lose more at its second and third look."""

    def __init__(self) -> None:
        self.looks = 0

    @property
    def nodes(self) -> list[Node]:
        self.looks += 1
        return [
            Node(id="0" * 40, address="10.0.0.1", is_alive=False),
            Node(id="1" * 40, address="10.0.0.2", is_alive=self.looks < 2),
            Node(id="2" * 40, address="10.0.0.3", is_alive=self.looks < 2, is_dismissed=self.looks >= 2),
            Node(id="3" * 40, address="10.0.0.4", is_alive=self.looks < 3),
        ]


def test_nodes_that_a_step_lost_are_in_its_record_and_shown_or_in_the_next_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The last one falls in the first step and is found at the begin of the next."""
    run, executor = open_moons(tmp_path, "velocity.kind=kernel", "velocity.bandwidth=0.1"), Shrinking()
    tell_lost.cache_clear()
    tell_lost(Node(id="1" * 40, address="10.0.0.2", is_alive=False))  # by who watches a simulation, for one
    for step in ("ingest", "fit_velocity"):
        perform(step, run, executor, progress=lambda *_: None)
    second, fourth = f"10.0.0.2 ({'1' * 8})", f"10.0.0.4 ({'3' * 8})"
    assert run.record.steps["ingest"].summary["nodes_lost"] == [second]
    assert run.record.steps["fit_velocity"].summary["nodes_lost"] == [fourth]
    assert losses_of(run.record) == [f"ingest: lost 1 node {second}", f"fit_velocity: lost 1 node {fourth}"]
    shown = told(capsys, "show", "moons", root=tmp_path)
    assert all(f"{line}\n" in shown for line in losses_of(run.record))
    warned = [record.getMessage() for record in caplog.records if record.name == "tasks.session"]
    assert warned == [f"node {node} was lost" for node in (second, fourth)]  # once each


def test_a_step_that_lost_nothing_says_nothing_of_it(tmp_path: Path) -> None:
    run = open_moons(tmp_path)
    perform("ingest", run, SerialExecutor(), progress=lambda *_: None)
    assert "nodes_lost" not in run.record.steps["ingest"].summary
