"""Metrics: what steps tell is counted once, under the names that others rely on, and served to this host alone."""

import logging
import socket
import urllib.request

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from flows.metrics import NAMES, Metrics, served
from flows.progress import about, listening, told
from storage.errors import InputError
from tasks.facts import ChunkFacts, TrainingFacts

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]

CONTRACT = {  # dashboards and alerts in deploy/ ask for these
    "charflow_trajectories_total",
    "charflow_chunks_committed_total",
    "charflow_chunk_retries_total",
    "charflow_bytes_written_total",
    "charflow_step_seconds_total",
    "charflow_step_done",
    "charflow_step_total",
    "charflow_trajectories_per_second",
    "charflow_training_loss",
    "charflow_training_steps_total",
    "charflow_input_wait_ratio",
    "charflow_step_failures_total",
}


def parsed(text: str) -> Series:
    """Give every series of a scrape, by name and labels but for the run, which is the same for all."""
    return {
        (sample.name, tuple(sorted((k, v) for k, v in sample.labels.items() if k != "run"))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(port: int) -> Series:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


def chunk(*, bytes: int, again: tuple[int, ...] = (), host: str = "a") -> ChunkFacts:
    return ChunkFacts(bytes=bytes, slowest_chunk=0, slowest_seconds=1.0, again=again, worker_host=host)


def at(step: str, **labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({"step": step, **labels}.items()))


def port_of(caplog: pytest.LogCaptureFixture) -> int:
    return int(next(record.__dict__["port"] for record in caplog.records if hasattr(record, "port")))


def test_all_that_steps_tell_is_counted_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("flows.metrics.time.monotonic", lambda: now)
    with served("0") as metrics, listening(metrics), about(run="moons"):
        with told("integrate") as tell:
            for k, (host, again) in enumerate([("a", ()), ("b", (1,)), ("a", (1,)), ("a", (1, 3))]):
                now = 2.0 * k
                tell(64 * (k + 1), 640, "trajectories", chunk(bytes=100 * (k + 1), again=again, host=host))
            assert scrape(port_of(caplog))["charflow_trajectories_per_second", at("integrate")] == 32.0
        with told("integrate") as tell:  # tried again, it tells from the beginning
            tell(64, 384, "trajectories", chunk(bytes=100))
            tell.seconds = 7.5
        with told("train_generator") as tell:
            for steps in (0, 10, 10, 30):
                tell(100 + steps, 200, "steps", TrainingFacts(steps=steps, loss=2.0 - steps / 20, wait_share=0.25))
            tell.seconds = 1.5
        found = scrape(port_of(caplog))
    assert found["charflow_trajectories_total", at("integrate")] == 5 * 64
    assert found["charflow_bytes_written_total", at("integrate")] == 500
    assert found["charflow_chunk_retries_total", at("integrate")] == 2
    assert found["charflow_chunks_committed_total", at("integrate", worker_host="a")] == 4
    assert found["charflow_chunks_committed_total", at("integrate", worker_host="b")] == 1
    assert found["charflow_trajectories_per_second", at("integrate")] == 0.0
    assert found["charflow_step_done", at("integrate")] == 64
    assert found["charflow_step_total", at("integrate")] == 384
    assert found["charflow_step_seconds_total", at("integrate")] == 6.0 + 7.5  # of both
    assert found["charflow_training_steps_total", at("train_generator")] == 30
    assert found["charflow_training_loss", at("train_generator")] == 0.5
    assert found["charflow_input_wait_ratio", at("train_generator")] == 0.25
    assert found["charflow_step_done", at("train_generator")] == 130
    assert {value for (name, _), value in found.items() if name == "charflow_step_failures_total"} == {0.0}
    assert {name for name, _ in found} == CONTRACT == set(NAMES)


def test_every_series_names_its_run() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for run in ("one", "two"):
        with listening(metrics), told("integrate", run=run) as tell:
            tell(64, 640, "trajectories", chunk(bytes=9))
    samples = [sample for family in registry.collect() for sample in family.samples]
    assert {sample.labels["run"] for sample in samples} == {"one", "two"}
    assert {sample.value for sample in samples if sample.name == "charflow_bytes_written_total"} == {9.0}


@pytest.mark.parametrize(("error", "failures"), [(OSError, 1.0), (KeyboardInterrupt, 0.0)])
def test_a_failure_is_counted_and_an_interruption_is_none(error: type[BaseException], failures: float) -> None:
    registry = CollectorRegistry()
    with pytest.raises(error), listening(Metrics(registry)), told("ingest", run="moons"):
        raise error
    labels = {"run": "moons", "step": "ingest"}
    assert registry.get_sample_value("charflow_step_failures_total", labels) == failures
    assert registry.get_sample_value("charflow_step_seconds_total", labels) is not None


def test_this_host_alone_may_read_unless_told_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    for asked in ("0", "localhost:0", "127.0.0.1:0"):
        with served(asked):
            assert scrape(port_of(caplog)) == {}
        assert [record.levelno for record in caplog.records] == [logging.WARNING], "of the port alone"
        with pytest.raises(OSError):
            scrape(port_of(caplog))
        caplog.clear()
    with served("0.0.0.0:0"):
        port = port_of(caplog)
    last = f"metrics can be read by whoever reaches 0.0.0.0:{port}; CHARFLOW_METRICS={port} keeps them here"
    assert caplog.messages[-1] == last


@pytest.mark.parametrize("asked", ["http", "70000", "-1", "a:b", ":", "::1:90", "host:", "9 1", "²"])
def test_what_is_no_address_is_bad_input(asked: str) -> None:
    words = r"CHARFLOW_METRICS must be \[HOST:\]PORT with a port of 0 to 65535, got "
    with pytest.raises(InputError, match=words), served(asked):
        pass


def test_a_taken_port_and_a_foreign_host_are_bad_input() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = rf"CHARFLOW_METRICS must be an address of this host .*, got '{port}' \(.*in use\); choose another port"
        with pytest.raises(InputError, match=words), served(str(port)):
            pass
    with pytest.raises(InputError, match="must be an address of this host"), served("nowhere.invalid:0"):
        pass
