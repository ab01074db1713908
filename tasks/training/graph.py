"""A step's forward and backward pass as one CUDA graph, since launching their kernels one by one takes longer.

A U-Net of 64 channels makes about a thousand kernels a step, which a processor may need several times as long to launch
as a Hopper GPU to compute. They are recorded once and launched together from then on.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from storage.sources import first_line
from tasks.training.backward import map_tensors, tensors_of

logger = logging.getLogger(__name__)

RECORDING = threading.Lock()  # held while a graph is recorded; other threads of the process use the device under it

Batch = TypeVar("Batch")

_FIRST = 3  # steps that are computed as they come: libraries choose their kernels, and compilers make theirs


class GraphedBackward(Generic[Batch]):
    """A function of a batch that adds gradients to parameters, replayed from a recording.

    The function must do the same for every batch of the same shapes: nothing in it may depend on values that are known
    on the host alone, but random numbers of the device's own generator, which a recording reads anew. Where recording
    fails, and for batches of other shapes, it is called as it is.

    Args:
        backward: sets the gradients of ``parameters``, which are None before, and gives the loss of each row,
            ``[batch]``.
        parameters: those that get gradients.
    """

    def __init__(self, backward: Callable[[Batch], Tensor], parameters: Sequence[nn.Parameter]) -> None:
        self._backward = backward
        self._parameters = parameters
        self._called = 0
        self._record: _Record | None = None
        self._is_refused = False

    def __call__(self, batch: Batch) -> Tensor:
        """Set the gradients, and give the loss of each row, ``[batch]``, detached."""
        self._called += 1
        if self._record is None and self._called > _FIRST and not self._is_refused:
            self._record = self._recorded(batch)
        if self._record is None or not self._record.fits(batch):
            return self._backward(batch)
        return self._record.replay(batch)

    def _recorded(self, batch: Batch) -> "_Record | None":
        try:
            return _Record(self._backward, batch, self._parameters)
        except RuntimeError as error:
            self._is_refused = True
            for p in self._parameters:
                p.grad = None
            logger.warning("steps are computed kernel by kernel, a CUDA graph cannot be had: %s", first_line(error))
            return None


class _Record:
    """A graph, with the memory that it reads and writes."""

    def __init__(self, backward: Callable[[Any], Tensor], batch: Any, parameters: Sequence[nn.Parameter]) -> None:
        given = map_tensors(batch, torch.clone)
        self._inputs = tensors_of(given)
        self._parameters = parameters
        self._graph = torch.cuda.CUDAGraph()
        with RECORDING:
            torch.cuda.synchronize()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._losses = backward(given)
        self._gradients = [p.grad for p in parameters]

    def fits(self, batch: Any) -> bool:
        """Tell whether a batch has the shapes that were recorded."""
        found = tensors_of(batch)
        return [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in self._inputs]

    def replay(self, batch: Any) -> Tensor:
        """Compute for a batch; gradients lie where they were recorded, and losses in memory of their own."""
        torch._foreach_copy_(self._inputs, tensors_of(batch))
        self._graph.replay()
        for p, gradient in zip(self._parameters, self._gradients, strict=True):
            p.grad = gradient
        return self._losses.clone()
