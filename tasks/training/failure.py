"""What is said of the batch at which a training stops: its step, its place in the stream, and which of its rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.ordering import Indices
from tasks.specs import OptimiserSpec
from tasks.training.backward import map_tensors

Place = Mapping[str, Any]

_NAMED = 3  # rows


class LossError(FloatingPointError):
    """The loss of one of this worker's rows is not finite."""


class GradientError(FloatingPointError):
    """The gradient is not finite and the losses of this worker's rows are; those of another worker's may not be."""


@dataclass(frozen=True, kw_only=True)
class Numbering:
    """Which rows of a store this worker's batches are made of: a function of their place, so no batch carries them."""

    what: str  # the rows are, in the plural
    at: Callable[[int, Place], Indices]  # gives them, ``[batch]``, after so many steps and at a place of the stream


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What is kept of an optimiser step until someone looks; a GPU may not have come to it yet."""

    step: int  # as it is counted, from 1
    place: Place  # of the stream, where the step's batch begins
    losses: Tensor  # [batch], of this worker's rows
    norm: Tensor  # of the gradient over all workers' rows, 0-d


def mean_losses(steps: Sequence[Taken]) -> tuple[list[float], int | None]:
    """Give each step's mean loss, and the index of the first step that was not finite, in loss or gradient."""
    means: list[float] = torch.stack([taken.losses for taken in steps]).mean(1).tolist()
    norms: list[float] = torch.stack([taken.norm for taken in steps]).tolist()
    is_finite = [math.isfinite(mean) and math.isfinite(norm) for mean, norm in zip(means, norms, strict=True)]
    return means, None if all(is_finite) else is_finite.index(False)


def failure(
    taken: Taken, *, stop: Place, batch: object, numbering: Numbering, spec: OptimiserSpec
) -> LossError | GradientError:
    """Give the error of a step that was not finite.

    Args:
        taken: the step.
        stop: where its batch ends in the stream.
        batch: the batch itself, or None where it is gone.
        numbering: of its rows.
        spec: of the training.
    """
    rows, losses = numbering.at(taken.step - 1, taken.place), taken.losses.cpu().numpy()
    is_bad, is_spoilt = ~np.isfinite(losses), _spoilt(batch, len(losses))
    where = f"is not finite at step {taken.step}{_between(taken.place, stop)}"
    kept = "the last good checkpoint is kept"
    remedy = f"lower {spec.section}.learning_rate ({spec.learning_rate:g}); {kept}"
    if is_spoilt.any():
        named = _named(numbering.what, np.unique(rows[is_spoilt]))
        return LossError(f"{spec.section} loss {where}, for {named}, whose own values are not finite; {kept}")
    if is_bad.any():
        return LossError(
            f"{spec.section} loss {where}, for {_named(numbering.what, np.unique(rows[is_bad]))}; {remedy}"
        )
    largest = _named(numbering.what, rows[np.argsort(-losses)[:_NAMED]])
    return GradientError(f"{spec.section} gradient {where}, where {largest} have the largest losses; {remedy}")


def _between(start: Place, stop: Place) -> str:
    """Give, in words, the batch from one place of the stream to another; nothing where it has no places."""
    first, last = (
        ", ".join(f"{name} {place[name]}" for name in ("epoch", "position") if name in place) for place in (start, stop)
    )
    return f", in the batch from {first} to {last}" if first else ""


def _spoilt(batch: object, rows: int) -> npt.NDArray[np.bool_]:
    """Tell which rows of a batch have a value that is not finite, ``[batch]``; none where the batch is gone."""
    found = [torch.zeros(rows, dtype=torch.bool)]

    def look(x: Tensor) -> Tensor:
        found.append(~torch.isfinite(x).reshape(rows, -1).all(1).cpu())
        return x

    map_tensors(batch, look)
    return torch.stack(found).any(0).numpy()


def _named(what: str, rows: Indices) -> str:
    """Give a few rows in words, and how many more there are."""
    more = f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
    return f"{what} {', '.join(map(str, rows[:_NAMED].tolist()))}{more}"
