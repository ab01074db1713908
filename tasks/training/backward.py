"""Loss and gradients of a batch, part by part: gradients add up over the parts, activations do not."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from operator import itemgetter
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")


def backward(loss: Callable[[Batch], Tensor], batch: Batch, *, rows: int = 0) -> Tensor:
    """Add the gradients of a batch's mean loss to the parameters, and give the loss of each row, ``[batch]``, detached.

    Args:
        loss: of each row, ``[batch]``.
        batch: a dataclass whose tensors, and those of dataclasses inside, share their first axis; anything at all
            where it is not cut.
        rows: computed at once, which bounds the memory; 0: all. The sum is the same up to rounding.
    """
    if rows == 0:
        return _backward(loss(batch))
    return torch.cat([_backward(loss(part), share=share) for part, share in _cut(batch, rows)])


def map_tensors(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Give a dataclass with the function's value in the place of each of its tensors, all the way down."""
    if isinstance(batch, Tensor):
        return function(batch)
    if not is_dataclass(batch):
        return batch
    inside = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{name: map_tensors(value, function) for name, value in inside.items()})  # type: ignore[type-var]


def tensors_of(batch: Any) -> list[Tensor]:
    """Give all tensors of a dataclass, in order, all the way down."""
    found: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        found.append(x)
        return x

    map_tensors(batch, keep)
    return found


def _backward(losses: Tensor, *, share: float = 1.0) -> Tensor:
    mean = losses.mean()
    (mean if share == 1 else share * mean).backward()  # type: ignore[no-untyped-call]
    return losses.detach()


def _cut(batch: Any, rows: int) -> Iterator[tuple[Any, float]]:
    """Give parts of at most so many rows, each with its share of them all."""
    total = next(len(value) for f in fields(batch) if isinstance(value := getattr(batch, f.name), Tensor))
    for start in range(0, total, rows):
        part = slice(start, min(start + rows, total))
        yield map_tensors(batch, itemgetter(part)), (part.stop - part.start) / total
