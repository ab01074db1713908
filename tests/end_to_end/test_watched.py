"""A run that others watch while it works: its metrics over HTTP, ``charflow show --watch`` in other processes, its log.

What they may not see as well: a secret of the environment, or a socket that other hosts reach.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from flows.metrics import NAMES
from storage.catalog import Catalog, RunRecord
from tasks.reaper import descendants
from tests.end_to_end.command import TINY, charflow, start
from tests.end_to_end.test_logs import records
from tests.flows.test_metrics import Series, at, scrape

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_home")]

SECRET = "hush-7141-keep-it"
STEPS = ["ingest", "fit_velocity", "integrate", "train_generator", "evaluate"]
CHUNKS, CHUNK_ROWS = 10, 64  # of TINY's 600 trajectories
CHANGES = (*TINY, "generator.workers=1", "compute.cpus=1")


def port_of(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Give the port of a command's metrics, and what it wrote to standard error so far."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if found := re.search(r"metrics are served at http://127\.0\.0\.1:(\d+)/metrics", line):
            return int(found[1]), said
    raise AssertionError("no port was told")


def listened_at(pids: Iterable[int]) -> set[str]:
    """Give the addresses at which processes listen, as the kernel writes them, hexadecimal."""
    sockets = set()
    for pid in pids:
        with suppress(OSError):  # it ended
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    sockets.add(os.readlink(link))
    rows = [row.split() for kind in ("tcp", "tcp6") for row in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def read_while(process: "subprocess.Popen[str]", port: int) -> tuple[Series, str, str]:
    """Read metrics until a command ends, and give what was read last, and the rest of both outputs."""
    last, is_early, addresses, looked = Series(), False, set[str](), 0.0
    while process.poll() is None:
        try:
            last = scrape(port)
        except OSError:  # it ends
            break
        if time.monotonic() > looked + 1:  # for it reads what every process has open
            addresses |= listened_at([process.pid, *descendants(process.pid)])
            looked = time.monotonic()
        is_early |= ("charflow_step_seconds_total", at("integrate")) not in last
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert SECRET not in out + err + repr(last)
    assert addresses, "nothing was seen"
    assert addresses <= LOOPBACK
    assert is_early, "nothing was read before the trajectories were done"
    return last, out, err


def check_trajectories(last: Series, record: RunRecord) -> None:
    simulated = record.steps["integrate"].summary
    chunks = {labels: value for (name, labels), value in last.items() if name == "charflow_chunks_committed_total"}
    assert chunks == {at("integrate", worker_host=record.host): simulated["simulated"]}
    assert last["charflow_trajectories_total", at("integrate")] == 64 * simulated["simulated"]
    assert last["charflow_bytes_written_total", at("integrate")] == simulated["bytes"]
    assert last["charflow_chunk_retries_total", at("integrate")] == len(simulated["again"])


def check_against_the_catalog(last: Series, record: RunRecord) -> None:
    check_trajectories(last, record)
    trained = record.steps["train_generator"]
    assert last["charflow_training_steps_total", at("train_generator")] == 40
    assert last["charflow_step_seconds_total", at("train_generator")] == pytest.approx(trained.seconds, abs=0.002)
    assert 0 <= last["charflow_input_wait_ratio", at("train_generator")] <= 1
    assert {name for name, _ in last} == set(NAMES)


def check_log(out: str, err: str) -> None:
    """Check that a run tells its steps in order and every chunk once."""
    served, *found = records(err)
    assert (served["logger"], served["level"]) == ("flows.metrics", "warning")
    assert {record["run"] for record in found} == {"gaussian"}
    assert [record["time"] for record in found] == sorted(record["time"] for record in found)
    assert {record["level"] for record in found} <= {"debug", "info"}, found
    for event in ("began", "ended"):
        assert [record["step"] for record in found if record.get("event") == event] == ["engines", *STEPS]
    steps = json.loads(out)["steps"]
    ended = {record["step"]: record["seconds"] for record in found if record.get("event") == "ended"}
    assert {step: ended[step] for step in STEPS} == {
        step: pytest.approx(facts["seconds"], abs=2e-3) for step, facts in steps.items()
    }
    commits = [record for record in found if record.get("event") == "committed"]
    assert sorted(record["chunk"] for record in commits) == list(range(CHUNKS))
    assert {(record["step"], record["rows"], record["worker_host"]) for record in commits} == {
        ("integrate", CHUNK_ROWS, commits[0]["host"])
    }
    assert all(record["bytes"] > 0 and record["seconds"] > 0 for record in commits)
    trained = [record for record in found if record.get("event") == "trained"]
    assert trained[-1]["optimiser_step"] == 40
    assert all({"loss", "steps_per_second", "wait_share"} <= record.keys() for record in trained)
    assert {record["step"] for record in trained} == {"train_generator"}


def test_what_others_see_of_a_run_is_what_the_catalog_says_of_it_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "PREFECT_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    root, catalog = tmp_path / "runs", Catalog(tmp_path / "runs")
    process = start("run", "gaussian", "--log", "json", "--json", root=root, changes=CHANGES, CHARFLOW_METRICS="0")
    port, said = port_of(process)
    watching = [start("show", "gaussian", "--watch", *words, root=root) for words in ((), ("--json",))]
    last, out, err = read_while(process, port)
    check_against_the_catalog(last, catalog.get("gaussian"))
    check_log(out, said + err)
    lines, shown = (each.communicate(timeout=60)[0] for each in watching)
    assert [each.returncode for each in watching] == [0, 0]
    assert json.loads(shown)["metrics"] == catalog.get("gaussian").metrics
    assert lines.splitlines()[-1] == "gaussian: finished"
    assert SECRET not in lines + shown
    files = [path for path in root.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert {"config.toml", "run.json", "index.html", "metrics.json"} <= {path.name for path in files}
    assert "gaussian: running; train_generator" in lines

    for words in ((), ("--json",)):
        plain, _ = charflow("run", "gaussian", *words, root=root, changes=CHANGES)
        assert charflow("run", "gaussian", *words, "--log", "json", root=root, changes=CHANGES) == (plain, "")

    more = (*CHANGES, "trajectories.count=1000")
    grown = start("run", "gaussian", "--until", "integrate", root=root, changes=more, CHARFLOW_METRICS="0")
    last, *_ = read_while(grown, port_of(grown)[0])
    check_trajectories(last, catalog.get("gaussian"))
    assert last["charflow_trajectories_total", at("integrate")] == 6 * 64  # of 16 chunks: 10 were there before
