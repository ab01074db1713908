"""A command whose metrics are read over HTTP while it works: they are what the catalog says in the end."""

import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from flows.metrics import NAMES
from storage.catalog import Catalog
from tests.end_to_end.command import TINY, start
from tests.flows.test_metrics import Series, at, scrape

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_home")]

CHANGES = (*TINY, "generator.workers=1", "compute.cpus=2")


def port_of(process: "subprocess.Popen[str]") -> int:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"metrics are served at http://127\.0\.0\.1:(\d+)/metrics", line):
            return int(found[1])
    raise AssertionError("no port was told")


def watch(root: Path, *changes: str) -> list[Series]:
    """Run to the end, and give what was read on the way."""
    process = start("run", "gaussian", root=root, changes=(*CHANGES, *changes), CHARFLOW_METRICS="0")
    port, read = port_of(process), []
    while process.poll() is None:
        try:
            read.append(scrape(port))
        except OSError:  # it ends
            break
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return read


def test_what_is_read_at_the_end_is_what_the_catalog_says_of_this_process(tmp_path: Path) -> None:
    for changes in ((), ("trajectories.count=1000",)):
        read = watch(tmp_path / "runs", *changes)
        record = max(Catalog(tmp_path / "runs").runs(), key=lambda found: found.updated)
        simulated, trained = record.steps["integrate"].summary, record.steps["train_generator"]
        last = read[-1]
        chunks = {labels: value for (name, labels), value in last.items() if name == "charflow_chunks_committed_total"}
        assert chunks == {at("integrate", worker_host=record.host): simulated["simulated"]}
        assert last["charflow_trajectories_total", at("integrate")] == 64 * simulated["simulated"]
        assert last["charflow_bytes_written_total", at("integrate")] == simulated["bytes"]
        assert last["charflow_chunk_retries_total", at("integrate")] == len(simulated["again"])
        assert last["charflow_training_steps_total", at("train_generator")] == 40
        assert last["charflow_step_seconds_total", at("train_generator")] == pytest.approx(trained.seconds, abs=0.002)
        assert 0 <= last["charflow_input_wait_ratio", at("train_generator")] <= 1
        assert {name for name, _ in last} == set(NAMES)
        assert any(("charflow_step_seconds_total", at("integrate")) not in found for found in read), "read too late"
        assert record.metrics
    assert simulated["simulated"] == 6  # of 16, 10 of which were there before
