"""Batches on their way to the device: in the training's own thread on a CPU, ahead of it where there is a GPU.

A GPU would idle while the next batch is drawn. A thread draws it meanwhile, into pinned memory, from which the copy
needs no waiting either. Numpy's generators and memory-mapped reads let go of the interpreter, so the two overlap.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch

from tasks.training.backward import map_tensors

Batch = TypeVar("Batch")
Place = Mapping[str, Any]  # of values that torch loads without running code

_AHEAD = 2  # batches


class Feed(Generic[Batch]):
    """The batches of an iterator, moved to a device; :attr:`place` belongs to the batch that was given last.

    Args:
        batches: without end; each a dataclass of tensors on the CPU, or anything at all if ``device`` is the CPU.
        place: where ``batches`` stands after the batch last drawn.
        device: where batches are wanted.
        ahead: batches drawn before they are asked for; by default none on the CPU.
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
        self._coming: deque[Future[tuple[Batch, Place]]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="draw-batches") if self._ahead else None

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
            batch, self.place = self._draw()
            return batch
        while len(self._coming) <= self._ahead:
            self._coming.append(self._pool.submit(self._draw))
        batch, self.place = self._coming.popleft().result()
        return batch

    def _draw(self) -> tuple[Batch, Place]:
        batch = next(self._batches)
        place = self._place()
        return (batch if self._device.type == "cpu" else _moved(batch, self._device)), place


def _moved(batch: Any, device: torch.device) -> Any:
    return map_tensors(batch, lambda x: x.pin_memory().to(device, non_blocking=True))
