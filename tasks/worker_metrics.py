"""What workers measure of themselves; Ray exports it, as ``ray_<name>``, on every node where its agent runs.

That is where ``ray[default]`` is installed. Elsewhere these calls cost 12 microseconds and nothing comes of them. The
driver's own metrics (flows/metrics.py) need no agent. This module knows no Ray: it is given Ray's kinds of metrics.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

_UNITS = {
    "charflow_worker_units_total": "Units of work that ended well: chunks of trajectories, shards of data.",
    "charflow_worker_unit_seconds_total": "Seconds that they took.",
    "charflow_worker_unit_failures_total": "Units of work that raised an error.",
    "charflow_worker_rows_total": "Rows that units of work stored: trajectories.",
    "charflow_worker_bytes_written_total": "Bytes that units of work stored.",
}
_STEPS = {"charflow_worker_training_steps_total": "Optimiser steps that a rank took."}
_OF_TRAINING = {
    "charflow_worker_training_loss": "Mean loss of a rank's rows since the last that was told.",
    "charflow_worker_input_wait_ratio": "Share of the time that a rank waits for batches.",
}
NAMES = (*_UNITS, *_STEPS, *_OF_TRAINING)


class Counter(Protocol):
    """Ray's counter."""

    def inc(self, value: float, tags: dict[str, str]) -> None:
        """Add a value."""
        ...


class Gauge(Protocol):
    """Ray's gauge."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Replace the value."""
        ...


@runtime_checkable
class Stored(Protocol):
    """What is given by a unit of work that stored something."""

    @property
    def rows(self) -> int:
        """Number of them."""
        ...

    @property
    def bytes(self) -> int:
        """Of their files."""
        ...


class UnitMeter:
    """Counts the units of work of one worker process.

    Args:
        counter: makes a counter of a name, what it counts, and the names of its tags.
    """

    def __init__(self, counter: Callable[[str, str, tuple[str, ...]], Counter]) -> None:
        self._counters = {name: counter(name, about, ("work",)) for name, about in _UNITS.items()}

    def done(self, work: str, result: object, *, seconds: float) -> None:
        """Count a unit that ended well."""
        self._add("charflow_worker_units_total", 1, work)
        self._add("charflow_worker_unit_seconds_total", seconds, work)
        if isinstance(result, Stored):
            self._add("charflow_worker_rows_total", result.rows, work)
            self._add("charflow_worker_bytes_written_total", result.bytes, work)

    def failed(self, work: str) -> None:
        """Count a unit that raised an error."""
        self._add("charflow_worker_unit_failures_total", 1, work)

    def _add(self, name: str, value: float, work: str) -> None:
        if value > 0:  # Ray refuses to add nothing
            self._counters[name].inc(value, tags={"work": work})


class TrainingMeter:
    """Hears of one rank's training.

    Args:
        counter: as for :class:`UnitMeter`.
        gauge: likewise.
        work: what is trained.
        rank: of this worker.
    """

    def __init__(
        self,
        counter: Callable[[str, str, tuple[str, ...]], Counter],
        gauge: Callable[[str, str, tuple[str, ...]], Gauge],
        *,
        work: str,
        rank: int,
    ) -> None:
        self._tags = {"work": work, "rank": str(rank)}
        (self._steps,) = (counter(name, about, ("work", "rank")) for name, about in _STEPS.items())
        self._loss, self._wait = (gauge(name, about, ("work", "rank")) for name, about in _OF_TRAINING.items())

    def __call__(self, record: Mapping[str, float]) -> None:
        """Hear of the steps since the last record."""
        self._steps.inc(record["steps"], tags=self._tags)
        self._loss.set(record["loss"], tags=self._tags)
        self._wait.set(record["wait_share"], tags=self._tags)
