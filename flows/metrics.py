"""Metrics for Prometheus, served over HTTP by the process that drives the work, of what steps tell it.

Counters count what this process did: a run that goes on begins at nothing, as Prometheus expects of a new process.
Workers on other hosts have metrics of their own, which Ray exports (tasks/flight.py).
"""

import ipaddress
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, start_http_server

from flows.progress import Listener, Stopwatch, worked_on
from storage.errors import InputError
from tasks.facts import ChunkFacts, Facts, TrainingFacts

logger = logging.getLogger(__name__)

_COUNTERS = {
    "charflow_trajectories_total": "Trajectories that were simulated and committed.",
    "charflow_chunks_committed_total": "Chunks of trajectories that were committed, by the host that made them.",
    "charflow_chunk_retries_total": "Chunks that were given to a second worker: the first was lost, or too slow.",
    "charflow_bytes_written_total": "Bytes of trajectories that were stored.",
    "charflow_step_seconds_total": "Seconds that a step worked, counted when it ends, well or not.",
    "charflow_training_steps_total": "Optimiser steps that were taken.",
    "charflow_step_failures_total": "Times that a step ended by an error.",
}
_GAUGES = {
    "charflow_step_done": "What the step has done of its total: rows, trajectories, optimiser steps, ...",
    "charflow_step_total": "What the step is to do.",
    "charflow_trajectories_per_second": "Trajectories that are simulated a second; 0 when none are any more.",
    "charflow_training_loss": "Mean loss since the last that was told.",
    "charflow_input_wait_ratio": "Share of the time that a training waits for batches.",
}
NAMES = (*_COUNTERS, *_GAUGES)

_LABELS = ("run", "step")
_MORE_LABELS = {"charflow_chunks_committed_total": ("worker_host",)}
LABELS: dict[str, tuple[str, ...]] = {name: (*_LABELS, *_MORE_LABELS.get(name, ())) for name in NAMES}


@dataclass(kw_only=True)
class _Known:
    """What was told of a step at work, and is counted already."""

    done: int = 0
    bytes: int = 0
    again: int = 0
    steps: int = 0
    pace: Stopwatch = field(default_factory=Stopwatch)


class Metrics:
    """Hears of steps, and gives what it heard to those who ask the registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, of when it began
        self._counters = {
            name: Counter(name, about, LABELS[name], registry=registry) for name, about in _COUNTERS.items()
        }
        self._gauges = {name: Gauge(name, about, LABELS[name], registry=registry) for name, about in _GAUGES.items()}
        self._working: dict[str, _Known] = {}  # by step

    def began(self, step: str) -> None:
        """Count from nothing what the step tells; its failures are none so far, which alerts need to know."""
        self._working[step] = _Known()
        for name in ("charflow_step_failures_total", "charflow_step_seconds_total"):
            self._count(name, step, 0)

    def moved(self, step: str, done: int, total: int, words: str, facts: Facts | None = None) -> None:
        """Take what is new."""
        known = self._working.setdefault(step, _Known())
        self._set("charflow_step_done", step, done)
        self._set("charflow_step_total", step, total)
        match facts:
            case ChunkFacts():
                self._take_chunk(step, done, total, facts, known)
            case TrainingFacts():
                self._count("charflow_training_steps_total", step, facts.steps - known.steps)
                self._set("charflow_training_loss", step, facts.loss)
                self._set("charflow_input_wait_ratio", step, facts.wait_share)
                known.steps = facts.steps

    def ended(self, step: str, *, seconds: float) -> None:
        """Count the step's seconds."""
        self._count("charflow_step_seconds_total", step, seconds)
        if step in self._working and self._working.pop(step).done:
            self._set("charflow_trajectories_per_second", step, 0)

    def failed(self, step: str, error: BaseException, *, seconds: float) -> None:
        """Count the step's seconds and its failure; an interruption is none."""
        self.ended(step, seconds=seconds)
        if isinstance(error, Exception):
            self._count("charflow_step_failures_total", step, 1)

    def member(self, name: str) -> AbstractContextManager[Listener]:
        """Give itself: a series has its run's name."""
        return nullcontext(self)

    def _take_chunk(self, step: str, done: int, total: int, facts: ChunkFacts, known: _Known) -> None:
        run, _ = worked_on()
        self._count("charflow_trajectories_total", step, done - known.done)
        self._count("charflow_bytes_written_total", step, facts.bytes - known.bytes)
        self._count("charflow_chunk_retries_total", step, len(facts.again) - known.again)
        self._counters["charflow_chunks_committed_total"].labels(run, step, facts.worker_host).inc()
        rate = known.pace.moved(done, total, now=time.monotonic()).rate
        self._set("charflow_trajectories_per_second", step, rate or 0.0)
        known.done, known.bytes, known.again = done, facts.bytes, len(facts.again)

    def _count(self, name: str, step: str, amount: float) -> None:
        self._counters[name].labels(worked_on()[0], step).inc(amount)

    def _set(self, name: str, step: str, value: float) -> None:
        self._gauges[name].labels(worked_on()[0], step).set(value)


@contextmanager
def served(asked: str) -> Iterator[Metrics]:
    """Serve metrics at ``[HOST:]PORT`` while inside, and give who hears of the steps; the host is this one by default.

    Raises:
        InputError: it is no such address, or one that cannot be listened at.
    """
    host, port = _address(asked)
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise InputError(
            f"CHARFLOW_METRICS must be an address of this host at which nobody listens, got {asked!r} "
            f"({error.strerror}); choose another port, or 0 for one that is free"
        ) from error
    _tell_where(str(server.server_address[0]), server.server_port, is_chosen=port == 0)
    try:
        yield metrics
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _address(asked: str) -> tuple[str, int]:
    host, _, port = asked.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and host[0] + host[-1] != "[]"):
        raise InputError(f"CHARFLOW_METRICS must be [HOST:]PORT with a port of 0 to 65535, got {asked!r}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _tell_where(host: str, port: int, *, is_chosen: bool) -> None:
    """Say on which port, if nobody knows it, and warn where others may read what is served."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    level = logging.WARNING if is_chosen else logging.INFO
    logger.log(level, "metrics are served at http://%s/metrics", place, extra={"event": "metrics", "port": port})
    if not ipaddress.ip_address(host).is_loopback:
        logger.warning("metrics can be read by whoever reaches %s; CHARFLOW_METRICS=%d keeps them here", place, port)
