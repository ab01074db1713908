"""The velocity field as everything below sees it: two functions of time and state.

A field of labelled data becomes such a field once it is given its rows' labels, so solvers know nothing of labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from tasks.transport.interpolant import expand


class VelocityField(Protocol):
    """A velocity of the probability-flow ODE, with its denoiser E[x1 | x_t].

    ``t`` is a 0-d tensor of any float type (one time for the batch) or ``[batch]`` in the type of ``x_t``; ``x_t`` is
    ``[batch, *dim]``; both methods give ``[batch, *dim]`` in the type of ``x_t``.
    """

    def velocity(self, t: Tensor, x_t: Tensor) -> Tensor:
        """Give v(t, x_t), an estimate of d x_t / dt."""
        ...

    def denoiser(self, t: Tensor, x_t: Tensor) -> Tensor:
        """Give D(t, x_t) = E[x1 | x_t]."""
        ...


class ConditionalField(VelocityField, Protocol):
    """A field that may be given labels; without them it is the unconditional one."""

    def given(self, label: Tensor, guidance: float) -> VelocityField:
        """Give the field v_none + w (v_label - v_none) of a batch.

        Args:
            label: class of each row, int64 ``[batch]``; -1 for none: such a row is unconditional whatever w.
            guidance: the weight w; 1 is the conditional field itself.
        """
        ...


class LabelledField(Protocol):
    """A field whose rows may each have their own label, int64 ``[batch]``, -1 for none; None: no row has one."""

    def velocity(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        """Give v(t, x_t | label)."""
        ...

    def denoiser(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        """Give E[x1 | x_t, label]."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Guided:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): v_none + w (v_label - v_none), D alike.

    Both fields are evaluated in one batch of twice the rows, or one of them alone where that says it all.

    Attributes:
        field: evaluated with and without labels.
        label: class of each row, int64 ``[batch]``; -1 for none.
        guidance: w; below 1 it blends toward the unconditional field, above 1 it exaggerates the label.
    """

    field: LabelledField
    label: Tensor
    guidance: float

    def velocity(self, t: Tensor, x_t: Tensor) -> Tensor:
        """Give the guided velocity, ``[batch, *dim]``."""
        return self._combine(self.field.velocity, t, x_t)

    def denoiser(self, t: Tensor, x_t: Tensor) -> Tensor:
        """Give the guided denoiser, ``[batch, *dim]``, whose velocity is the guided one: the two are affine in D."""
        return self._combine(self.field.denoiser, t, x_t)

    @cached_property
    def _has_labels(self) -> bool:
        return bool((self.label >= 0).any())

    def _combine(self, of: Callable[[Tensor, Tensor, Tensor | None], Tensor], t: Tensor, x_t: Tensor) -> Tensor:
        if self.guidance == 0 or not self._has_labels:
            return of(t, x_t, None)
        if self.guidance == 1:
            return of(t, x_t, self.label)
        times = t if t.ndim == 0 else t.repeat(2)
        both = of(times, torch.cat([x_t, x_t]), torch.cat([torch.full_like(self.label, -1), self.label]))
        none, labelled = both.chunk(2)
        return torch.where(expand(self.label, x_t) >= 0, none + self.guidance * (labelled - none), none)
