"""Batches on their way to the device: in the training's own thread on a CPU, ahead of it where there is a GPU.

A GPU would idle while the next batch is drawn. A thread draws it meanwhile, into pinned memory, from which the copy
needs no waiting either. Numpy's generators and memory-mapped reads let go of the interpreter, so the two overlap.
A CPU is busy with the step itself, so a thread would gain nothing; but a step leaves none of what drawing needs in the
caches, so several small batches are drawn in a row, each then in half the time.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

import torch

from tasks.training.backward import map_tensors, tensors_of
from tasks.training.graph import RECORDING

Batch = TypeVar("Batch")
Drawn = TypeVar("Drawn")
Place = Mapping[str, Any]  # of values that torch loads without running code

_Coming = Callable[[], tuple[Batch, Place]]  # gives a batch, or raises what its drawing raised

_AHEAD = 2  # batches, for a GPU
_IN_A_ROW = 8  # batches, for a CPU
_ROW_BYTES = 2**23  # of those in a row, at most: larger batches take their time wherever they are drawn


class Feed(Generic[Batch]):
    """The batches of an iterator, moved to a device; :attr:`place` belongs to the batch that was given last.

    Args:
        batches: without end; each a dataclass of tensors on the CPU, or anything at all if ``device`` is the CPU.
        place: where ``batches`` stands after the batch last drawn.
        device: where batches are wanted.
        ahead: batches that a thread draws before they are asked for; by default none on the CPU.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        place: Callable[[], Place],
        *,
        device: torch.device,
        ahead: int | None = None,
    ) -> None:
        self.place: Place = place()
        self._batches = batches
        self._place = place
        self._device = device
        self._ahead = (0 if device.type == "cpu" else _AHEAD) if ahead is None else ahead
        self._coming: deque[_Coming[Batch]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="draw-batches") if self._ahead else None
        self._in_a_row = 1  # until the size of a batch is known

    def __enter__(self) -> "Feed[Batch]":
        """Give the feed itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Draw no more."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        """Give the feed itself."""
        return self

    def __next__(self) -> Batch:
        """Give the next batch, on the device."""
        if self._pool is None:
            if not self._coming:
                self._draw_in_a_row()
        else:
            while len(self._coming) <= self._ahead:
                self._coming.append(self._pool.submit(self._draw).result)
        batch, self.place = self._coming.popleft()()
        return batch

    def _draw_in_a_row(self) -> None:
        """Draw some batches here and now; an error waits until the batch that it belongs to is asked for."""
        for _ in range(self._in_a_row):
            try:
                drawn = self._draw()
            except Exception as error:
                self._coming.append(partial(_raise, error))
                return
            self._coming.append(partial(_given, drawn))
        if self._in_a_row == 1:
            batch, _ = drawn
            self._in_a_row = max(1, min(_IN_A_ROW, _ROW_BYTES // max(1, _bytes(batch))))

    def _draw(self) -> tuple[Batch, Place]:
        batch = next(self._batches)
        place = self._place()
        return (batch if self._device.type == "cpu" else _moved(batch, self._device)), place


def _given(drawn: Drawn) -> Drawn:
    return drawn


def _raise(error: Exception) -> NoReturn:
    raise error


def _bytes(batch: Any) -> int:
    """Give the bytes of all tensors in a batch."""
    return sum(x.nbytes for x in tensors_of(batch))


def _moved(batch: Any, device: torch.device) -> Any:
    with RECORDING:
        return map_tensors(batch, lambda x: x.pin_memory().to(device, non_blocking=True))
