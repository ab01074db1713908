"""Batches on their way to the device: the same ones with the same places, drawn ahead or not."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tasks.training.device import CPU
from tasks.training.feed import Feed, _moved


@dataclass(frozen=True)
class Batch:
    x: Tensor
    label: Tensor | None


class Counter:
    """Batches 0, 1, 2, ... and a place that runs with them."""

    def __init__(self) -> None:
        self.drawn = 0
        self.threads: set[str] = set()

    def __iter__(self) -> Iterator[int]:
        while True:
            self.threads.add(threading.current_thread().name)
            self.drawn += 1
            yield self.drawn - 1

    def place(self) -> dict[str, int]:
        return {"position": self.drawn}


def test_on_a_cpu_batches_are_drawn_in_a_row_each_with_its_place() -> None:
    source = Counter()
    with Feed(iter(source), source.place, device=CPU) as feed:
        drawn = []
        for k in range(20):
            assert next(feed) == k
            assert feed.place == {"position": k + 1}  # of the batch given
            drawn.append(source.drawn)
    assert drawn == [1] + [9] * 8 + [17] * 8 + [25] * 3  # the first alone, for its size
    assert source.threads == {threading.main_thread().name}


def test_on_a_cpu_large_batches_are_drawn_one_by_one() -> None:
    drawn = []

    def batches() -> Iterator[Batch]:
        for k in range(10):
            drawn.append(k)
            yield Batch(x=torch.zeros(2**21), label=None)  # 8 MiB

    with Feed(batches(), dict, device=CPU) as feed:
        for k in range(5):
            next(feed)
            assert drawn == list(range(k + 1))


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_drawing_ahead_changes_neither_batches_nor_places(ahead: int) -> None:
    source = Counter()
    with Feed(iter(source), source.place, device=CPU, ahead=ahead) as feed:
        assert feed.place == {"position": 0}
        for k in range(20):
            assert next(feed) == k
            assert feed.place == {"position": k + 1}  # of the batch given, however many are drawn
    assert source.drawn <= 20 + ahead
    assert threading.main_thread().name not in source.threads


@pytest.mark.parametrize("ahead", [0, 3])
def test_an_error_of_the_batches_arrives_with_the_batch_it_belongs_to(ahead: int) -> None:
    def failing() -> Iterator[int]:
        yield from range(4)
        raise ValueError("no more")

    with Feed(failing(), dict, device=CPU, ahead=ahead) as feed:
        assert [next(feed) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(ValueError, match="no more"):
            next(feed)


def test_every_tensor_of_a_batch_moves_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []

    def pin(x: Tensor) -> Tensor:
        pinned.append(x)
        return x

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    meta = torch.device("meta")  # stands in for a GPU
    found = _moved(Batch(x=torch.ones(3), label=None), meta)
    assert found.x.device == meta
    assert found.label is None
    assert len(pinned) == 1
