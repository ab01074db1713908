"""Where results come from: digests of what was made and read, and what is unknown of runs of before."""

from dataclasses import replace
from pathlib import Path

from flows.lineage import digests_of, inputs_of, lineage_of, total
from storage.catalog import Catalog, RunRecord, StageRecord
from tests.flows.test_runs import finish, open_moons


def record(*steps: str, source: str = "") -> RunRecord:
    stages = {
        step: StageRecord(key="k", holder="r", seconds=1.0, finished="", summary={"digest": f"digest of {step}"})
        for step in steps
    }
    return RunRecord(name="r", identity="i", config="c", created="", updated="", source_digest=source, steps=stages)


def test_digests_are_those_of_what_is_made() -> None:
    assert digests_of(record()) == {}
    assert digests_of(record("ingest", "evaluate", source="s")) == {"source": "s", "data": "digest of ingest"}
    assert digests_of(record("ingest", "fit_velocity", "integrate", "train_generator")) == {
        "data": "digest of ingest",
        "velocity": "digest of fit_velocity",
        "trajectories": "digest of integrate",
        "generator": "digest of train_generator",
    }


def test_a_step_reads_what_was_made_before_it() -> None:
    found = record("ingest", "fit_velocity", "integrate", "train_generator", source="s")
    assert inputs_of("ingest", found) == {"source": "s"}
    assert inputs_of("ingest", record()) == {}
    assert list(inputs_of("fit_velocity", found)) == ["data"]
    assert list(inputs_of("integrate", found)) == ["data", "velocity"]
    assert list(inputs_of("train_generator", found)) == ["data", "velocity", "trajectories"]
    assert list(inputs_of("evaluate", found)) == ["data", "velocity", "trajectories", "generator"]


def test_a_step_that_another_run_made_keeps_that_runs_facts(tmp_path: Path) -> None:
    first = finish(open_moons(tmp_path))
    second = open_moons(tmp_path, "evaluation.samples=77")
    found = lineage_of(Catalog(tmp_path), second.record)
    assert list(found) == ["ingest", "fit_velocity", "integrate", "train_generator"]
    for step, facts in found.items():
        stage = first.record.steps[step]
        assert (facts["holder"], facts["key"], facts["is_held"]) == ("moons", stage.key, True)
        assert (facts["inputs"], facts["versions"], facts["host"]) == (stage.inputs, stage.versions, stage.host)
    first.catalog.finish_stage(first.record, "ingest", replace(first.record.steps["ingest"], key="other"))
    assert [facts["is_held"] for facts in lineage_of(Catalog(tmp_path), second.record).values()] == [False] + 3 * [True]


def test_what_a_record_of_before_does_not_say_is_unknown_and_so_is_any_sum(tmp_path: Path) -> None:
    found = lineage_of(Catalog(tmp_path), record("ingest"))["ingest"]
    for name in ("inputs", "versions", "host", "cores", "core_hours", "bytes"):
        assert found[name] is None
    assert total({"a": {"bytes": 3}, "b": {"bytes": 4}}, "bytes") == 7
    assert total({"a": {"bytes": 3}, "b": {"bytes": None}}, "bytes") is None
    assert total({}, "bytes") == 0
