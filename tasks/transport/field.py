"""The velocity field as everything below sees it: two functions of time and state."""

from typing import Protocol

from torch import Tensor


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
