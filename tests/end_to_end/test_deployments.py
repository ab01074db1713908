"""Deployed for real: a server and a worker on loopback; scheduled, cancelled, killed, resumed, repaired."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.config import PipelineConfig, load_config
from flows.heartbeats import NAME
from flows.stages import stage_keys
from tests.end_to_end.blows import alive
from tests.end_to_end.command import ROOT, integrate_here
from tests.end_to_end.served import POOL, Served, database_name, in_seconds, served
from tests.end_to_end.test_interruption import chunk_bytes, chunk_files, committed, wait_until

pytestmark = pytest.mark.slow

SIZES = (
    "dataset.count=500",
    "trajectories.count=1000",
    "trajectories.chunk_rows=100",
    "trajectories.sub_batch=1",  # slow enough to be caught in the middle
    "trajectories.steps=8",
    "generator.steps=30",
    "generator.batch_size=128",
    "generator.network.width=32",
    "evaluation.samples=100",
    "evaluation.repeats=3",
    "compute.cpus=1",  # a worker of Ray's takes longer to start than all of its chunks
    "generator.workers=1",
)
QUICK = tuple(size for size in SIZES if "sub_batch" not in size)
SINCE = "2026-01-01"
NIGHTLY = 200
LEAP_DAYS: dict[str, Any] = {"schedules": [{"cron": "0 2 29 2 *"}], "run": "scheduled"}


def deployment(
    name: str, flow: str, *, run: str = "gaussian", sizes: tuple[str, ...] = SIZES, **more: Any
) -> dict[str, Any]:
    """Give an entry of a file."""
    parameters = {"config": "gaussian", "name": run, "changes": list(sizes)}
    growth = {"since": SINCE, "nightly": NIGHTLY} if flow in ("grow", "backfill") else {}
    return {
        "name": name,
        "entrypoint": f"flows.operations.{flow}",
        "parameters": {"name": run} if flow == "mend" else parameters | growth,
        "concurrency_limit": 1,
        "work_pool": {"name": POOL},
        **more,
    }


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), database=prefect_home / database_name()) as found:
        began = time.monotonic()
        found.deploy(
            deployment("grow", "grow"),
            deployment("mend", "mend"),
            deployment("train", "train", run="trained", sizes=QUICK),
            deployment("backfill", "backfill", run="trained", sizes=QUICK),
            deployment("many", "grow", run="bad", concurrency_limit=None),
            deployment("first", "grow", **LEAP_DAYS),
            deployment("weekly", "train", **LEAP_DAYS),
        )
        found.deploy_seconds = time.monotonic() - began
        yield found


def chunks_of(day: str) -> int:
    nights = int(day[-2:]) - 1
    return (1000 + nights * NIGHTLY) // 100


def asked(count: int) -> PipelineConfig:
    return load_config("gaussian", changes=(*QUICK, f"trajectories.count={count}"))


def seconds_to_import() -> float:
    """Give how long an interpreter takes now for what a flow run imports; 2 s on two idle cores."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import flows.operations, prefect.flow_engine"], cwd=ROOT, check=True)
    return time.monotonic() - began


def test_a_schedule_grows_the_store_and_the_next_run_of_that_day_adds_nothing(here: Served) -> None:
    every_hour = {
        "interval": 3600,
        "anchor_date": in_seconds(2 + 2 * here.deploy_seconds),
        "parameters": {"day": SINCE},
    }
    said = here.deploy(deployment("nightly", "grow", schedules=[every_hour]))
    assert "charflow-grow/nightly" in said
    found = here.completed(here.scheduled("charflow-grow/nightly"))
    assert found.auto_scheduled
    record = here.record("gaussian")
    assert record["status"] == "partial"
    assert record["steps"]["integrate"]["summary"]["count"] == 1000
    before = chunk_bytes(here.root)
    again = here.completed(here.run("charflow-grow/nightly", day=SINCE))
    assert (again.end_time - again.expected_start_time).total_seconds() < max(15, 6 * seconds_to_import())
    assert chunk_bytes(here.root) == before
    assert here.record("gaussian")["steps"]["integrate"] == record["steps"]["integrate"]


def test_a_cancelled_growth_leaves_nothing_at_work_and_goes_on_to_the_same_bytes(here: Served, tmp_path: Path) -> None:
    day = "2026-01-11"
    flow_run = here.run("charflow-grow/grow", day=day)
    started = committed(here.root) if (here.root / "gaussian").exists() else 0
    assert wait_until(lambda: committed(here.root) >= started + 3, seconds=60), here.logs()
    strays = here.processes(flow_run)
    assert len(strays) > 3  # Ray's among them
    began = time.monotonic()
    here.cancel(flow_run)
    assert wait_until(lambda: not any(map(alive, strays)), seconds=20), [pid for pid in strays if alive(pid)]
    assert time.monotonic() - began < 20
    assert here.ended(flow_run).state.is_cancelled()
    assert started + 3 <= committed(here.root) < chunks_of(day)
    assert here.record("gaussian")["status"] == "interrupted"
    assert "chunks are committed" in (here.root / "gaussian" / "failure.md").read_text()

    here.completed(here.run("charflow-grow/grow", day=day))
    assert here.record("gaussian")["status"] == "partial"
    assert not (here.root / "gaussian" / "failure.md").exists()
    integrate_here(tmp_path, changes=(*SIZES[:5], f"trajectories.count={chunks_of(day) * 100}"))
    assert chunk_bytes(here.root) == chunk_bytes(tmp_path)


def test_a_killed_flow_is_not_left_running(here: Served) -> None:
    flow_run = here.run("charflow-grow/grow", day="2026-01-21")
    before = committed(here.root)
    assert wait_until(lambda: committed(here.root) >= before + 3, seconds=60), here.logs()
    strays = here.processes(flow_run)
    os.kill(strays[0], signal.SIGKILL)
    assert here.ended(flow_run).state.is_crashed()
    assert wait_until(lambda: not any(map(alive, strays)), seconds=20)
    assert wait_until(lambda: here.record("gaussian")["status"] == "failed", seconds=20), here.logs()
    assert "ended without a word" in here.record("gaussian")["error"]
    account = here.root / "gaussian" / "failure.md"
    assert wait_until(account.exists, seconds=20)  # it follows the record
    assert "chunks are committed" in account.read_text()


def test_a_backfill_is_a_flow_run_for_each_day_and_training_takes_all_of_them(here: Served) -> None:
    here.completed(here.run("charflow-backfill/backfill", first_day=SINCE, last_day="2026-01-03"))
    days = sorted(run.parameters["day"] for run in here.ask(_growths) if run.parameters["name"] == "trained")
    assert days == ["2026-01-01", "2026-01-02", "2026-01-03"]
    grown = 1000 + 2 * NIGHTLY
    assert here.record("trained")["steps"]["integrate"]["summary"]["count"] == grown

    here.completed(here.run("charflow-train/train"))
    record = here.record("trained")
    assert record["status"] == "finished"
    assert record["steps"]["train_generator"]["key"] == stage_keys(asked(grown))["train_generator"]
    artifacts = {artifact.key: artifact for artifact in here.ask(_artifacts)}
    assert f"file://{here.root}/trained/report/index.html" in artifacts["trained-evaluate"].data
    assert "w2_ratio" in artifacts["trained-metrics"].data
    assert {artifact.type for artifact in artifacts.values()} >= {"table", "markdown"}


def test_a_damaged_chunk_is_told_of_and_mended(here: Served) -> None:
    store = here.root / "trained" / "trajectories.zarr"
    before = chunk_files(store)
    (store / "x" / "c" / sorted(before)[0]).write_bytes(b"\0" * 100)
    told = here.ended(here.run("charflow-mend/mend", name="trained", repair=False)).state
    assert told.is_failed()
    assert f"DamagedError: run trained: 1 of {len(before)} chunks are bad and 0 are missing" in told.message
    here.completed(here.run("charflow-mend/mend", name="trained"))
    assert chunk_files(store) == before


BAD = (  # the rest is refused by the same words: tests/flows/test_deployed.py
    ({"changes": ["trajectories.stepz=8"]}, "InputError: trajectories.stepz is unknown, got 8; allowed: count, "),
    ({"changes": ["compute.address=127.0.0.1:9"]}, "UnreachableClusterError: compute.address '127.0.0.1:9' does not"),
    (
        {"changes": [*SIZES, "trajectories.count=50000", "compute.timeout=2"], "name": "late"},
        "StepTimeoutError: integrate took longer than compute.timeout = 2 s; what it committed is kept, ",
    ),
)


def test_what_no_longer_validates_fails_in_one_line(here: Served) -> None:
    flow_runs = [here.run("charflow-grow/many", **parameters, day=SINCE) for parameters, _ in BAD]
    for flow_run, (_, line) in zip(flow_runs, BAD, strict=True):
        state = here.ended(flow_run).state
        assert state.is_failed()
        assert state.message.startswith(f"Flow run encountered an exception: {line}")
        assert "\n" not in state.message
    assert "Traceback" not in here.logs()
    assert not (here.root / "bad").exists()
    assert here.record("late")["status"] == "failed"
    assert "Where it came from" in (here.root / "late" / "failure.md").read_text()


def test_a_second_schedule_on_a_store_is_refused(here: Served) -> None:
    said = here.deploy(deployment("second", "grow", **LEAP_DAYS), code=2)
    assert len(here.ask(_automations)) == 1  # however often was deployed
    assert "deployments second and first both schedule charflow-grow on run 'scheduled' under CHARFLOW_ROOT" in said


async def _automations(client: Any) -> Any:
    return await client.read_automations_by_name(NAME)


async def _artifacts(client: Any) -> Any:
    return await client.read_artifacts(limit=200)


async def _growths(client: Any) -> Any:
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    return await client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["charflow-grow"])), limit=200)
