"""What workers measure of themselves, told to counters and gauges like Ray's."""

from dataclasses import dataclass
from typing import Any

import pytest

from tasks.executor import RayExecutor
from tasks.flight import _counting
from tasks.worker_metrics import NAMES, TrainingMeter, UnitMeter

Values = dict[tuple[str, tuple[str, ...]], float]


@dataclass
class Kind:
    """Counts or sets; refuses what Ray refuses."""

    values: Values

    def __call__(self, name: str, about: str, tags: tuple[str, ...]) -> "Series":
        assert about.endswith(".")
        self.values.setdefault((name, ()), 0.0)
        return Series(name, tags, self.values)


@dataclass
class Series:
    name: str
    names: tuple[str, ...]
    values: Values

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        place = self._place(tags)
        self.values[place] = self.values.get(place, 0.0) + value

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[self._place(tags)] = value

    def _place(self, tags: dict[str, str]) -> tuple[str, tuple[str, ...]]:
        assert tuple(tags) == self.names
        return self.name, tuple(tags.values())


@dataclass(frozen=True)
class Receipt:
    rows: int
    bytes: int


def test_units_are_counted_with_what_they_stored() -> None:
    values: Values = {}
    meter = UnitMeter(Kind(values))
    for result in (Receipt(64, 1000), Receipt(64, 0), "no receipt"):
        meter.done("simulate_chunk", result, seconds=0.5)
    meter.failed("simulate_chunk")
    at = ("simulate_chunk",)
    assert {name.removeprefix("charflow_worker_"): value for (name, tags), value in values.items() if tags == at} == {
        "units_total": 3,
        "unit_seconds_total": 1.5,
        "unit_failures_total": 1,
        "rows_total": 128,
        "bytes_written_total": 1000,
    }


def test_a_training_counts_the_steps_of_each_rank_and_tells_the_last_of_the_rest() -> None:
    values: Values = {}
    for rank in (0, 1):
        meter = TrainingMeter(Kind(values), Kind(values), work="train", rank=rank)
        for k in (1, 2):
            meter({"step": 10 * k, "steps": 10, "loss": rank + 1 / k, "wait_share": 0.25})
    assert values["charflow_worker_training_steps_total", ("train", "1")] == 20
    assert values["charflow_worker_training_loss", ("train", "1")] == 1.5
    assert values["charflow_worker_input_wait_ratio", ("train", "0")] == 0.25


def test_every_name_is_ours_and_none_is_a_drivers() -> None:
    from flows.metrics import NAMES as OF_DRIVERS

    values: Values = {}
    UnitMeter(Kind(values))
    TrainingMeter(Kind(values), Kind(values), work="", rank=0)
    assert {name for name, _ in values} == set(NAMES)
    assert all(name.startswith("charflow_worker_") for name in NAMES)
    assert not set(NAMES) & set(OF_DRIVERS)


def count_twice(item: int) -> Receipt:
    return Receipt(item, item)


def meter_kinds(_: int) -> list[str]:
    from tasks.flight import _unit_meter

    counters: dict[str, Any] = _unit_meter()._counters
    return sorted(
        f"{type(each).__module__}.{type(each).__name__} {each.info['tag_keys']}" for each in counters.values()
    )


@pytest.mark.slow
def test_a_worker_of_ray_counts_by_rays_own_counters(cluster: RayExecutor) -> None:
    assert [receipt.rows for receipt in sorted(cluster.map(count_twice, [1, 2]), key=lambda each: each.rows)] == [1, 2]
    (kinds,) = cluster.map(meter_kinds, [0])
    assert len(kinds) == 5
    assert set(kinds) == {"ray.util.metrics.Counter ('work',)"}


def fail(_: int) -> None:
    raise ValueError("bad")


@pytest.mark.slow
def test_every_unit_of_work_is_counted(cluster: RayExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    values: Values = {}
    meter = UnitMeter(Kind(values))
    monkeypatch.setattr("tasks.flight._unit_meter", lambda: meter)
    assert _counting(count_twice)(64) == (0, Receipt(64, 64))  # here, as in a worker
    with pytest.raises(ValueError, match="bad"):
        _counting(fail)(0)
    assert values["charflow_worker_units_total", ("count_twice",)] == 1
    assert values["charflow_worker_rows_total", ("count_twice",)] == 64
    assert values["charflow_worker_unit_failures_total", ("fail",)] == 1
