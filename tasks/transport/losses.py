"""The two regressions of the method: velocity matching and characteristic fitting.

Each gives the error of every row, squared unless said otherwise and summed over the dimensions; its mean is an unbiased
estimate of the risk in the paper (arXiv 2405.05512, section 2).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tasks.transport.interpolant import Interpolant, expand, interpolate

TimedMap = Callable[[Tensor, Tensor], Tensor]
TwoTimeMap = Callable[[Tensor, Tensor, Tensor], Tensor]
RowError = Callable[[Tensor, Tensor], Tensor]

_HUBER = 0.00054  # a coordinate


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Give ||prediction - target||^2 of each row, ``[batch]``."""
    return ((prediction - target) ** 2).flatten(1).sum(1)


def pseudo_huber(prediction: Tensor, target: Tensor) -> Tensor:
    """Give sqrt(||e||^2 + c^2) - c of each row, ``[batch]``, for e = prediction - target (arXiv 2310.14189).

    With c = 0.00054 sqrt(d), as advised there: ||e||^2 / 2c far below c, and the norm ||e|| above.
    """
    square = squared_error(prediction, target)
    c = _HUBER * math.sqrt(target[0].numel())
    return square / (torch.sqrt(square + c**2) + c)  # the same, without a difference of near numbers


def velocity_matching_loss(
    velocity: TimedMap, *, interpolant: Interpolant, t: Tensor, x0: Tensor, x1: Tensor
) -> Tensor:
    """Give ||alpha' x0 + beta' x1 - b(t, x_t)||^2 of each row, ``[batch]``; minimised by b = v.

    Its mean over x0 and x1 at b = v, the floor, is sigma^2 W^2 / (alpha^2 + beta^2 sigma^2) a dimension for the target
    N(m, sigma^2). Infinite at t = 1 for ``foellmer`` and ``vp``: train with :func:`denoiser_matching_loss`, measure
    with this.
    """
    c = interpolant.at(expand(t, x0))
    return squared_error(velocity(t, interpolate(interpolant, t, x0, x1)), c.noise_rate * x0 + c.data_rate * x1)


def denoiser_matching_loss(
    denoiser: TimedMap, *, interpolant: Interpolant, t: Tensor, x0: Tensor, x1: Tensor, data_std: float
) -> Tensor:
    """Give ||D(t, x_t) - x1||^2 / c_out(t)^2 of each row, ``[batch]``: the denoiser loss, uniform in the network.

    With c_out = alpha sd / sqrt(alpha^2 + beta^2 sd^2) the weight makes the raw output of the network a target of unit
    scale at all times (Karras et al., arXiv 2206.00364, table 1, in the letters of this project). A row at t = 1 counts
    nothing: there c_out = 0, and the denoiser is x_t whatever the network says.
    """
    c = interpolant.at(t)
    c_out = c.noise * data_std / torch.sqrt(c.noise**2 + (c.data * data_std) ** 2)
    weight = torch.where(c_out > 0, 1 / c_out**2, 0.0)
    return weight * squared_error(denoiser(t, interpolate(interpolant, t, x0, x1)), x1)


def characteristic_fitting_loss(
    generator: TwoTimeMap, *, t: Tensor, s: Tensor, x_t: Tensor, x_s: Tensor, error: RowError = squared_error
) -> Tensor:
    """Give the error of g(t, s, x_t) against x_s of each row, ``[batch]``, for pairs t <= s of stored points.

    With two independent uniform indices a row, sorted, the batch mean is on average the empirical risk of the paper
    (eq. 2.11), so the pairs need no weights.
    """
    return error(generator(t, s, x_t), x_s)


def semigroup_loss(
    generator: TwoTimeMap, *, t: Tensor, r: Tensor, s: Tensor, x_t: Tensor, x_s: Tensor, error: RowError = squared_error
) -> Tensor:
    """Give the error of g(r, s, sg[g(t, r, x_t)]) against x_s, ``[batch]``, for t <= r <= s (sg stops the gradient)."""
    return error(generator(r, s, generator(t, r, x_t).detach()), x_s)
