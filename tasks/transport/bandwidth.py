"""The bandwidth that makes each point likely under the kernel density of all the others (leave-one-out likelihood).

Duin, IEEE Transactions on Computers C-25 (1976). Like the velocity's sums, the likelihood's are taken leaf by leaf and
merged along the fixed tree, here without a moment and for many bandwidths at once.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tasks.transport.kernel import LEAF_ROWS, Node, Partial, Points, gather

COARSE = 24  # bandwidths of the first search, evenly spaced in their logarithm
FINE = 13  # of the second, between the neighbours of the best
_SMALLEST, _LARGEST = 1e-3, 3.0  # of the first search, in units of the data's standard deviation

_TILE_ROWS = 128
_LEAST_EXPONENT = -700.0

Densities = Callable[[Sequence[float]], Partial]


def leave_one_out_sums(
    points: Points, leaves: range, x: Tensor, rows: Tensor, bandwidths: Sequence[float]
) -> list[Node]:
    """Give the gathered sums of exp(-|x - x_i|^2 / 2 h^2) over a range of leaves without each query itself.

    Args:
        points: the dataset.
        leaves: the range.
        x: queries, ``[queries, size]`` float64.
        rows: which row of the dataset each query is, int64 ``[queries]``.
        bandwidths: h, ``[bandwidths]``.

    Returns:
        Nodes whose peak and mass are ``[queries * bandwidths]`` and whose moment is empty.
    """
    return gather(Node(level=0, index=k, sums=_sum_leaf(points, k, x, rows, bandwidths)) for k in leaves)


def _sum_leaf(points: Points, index: int, x: Tensor, rows: Tensor, bandwidths: Sequence[float]) -> Partial:
    leaf = points.leaf(index)
    wide, column = leaf.x.to(torch.float64), rows - index * LEAF_ROWS
    peak, mass = (torch.empty(len(x), len(bandwidths), dtype=torch.float64) for _ in range(2))
    powers = torch.empty(_TILE_ROWS, len(wide), dtype=torch.float64)  # re-used: fresh memory costs more than exp
    for start in range(0, len(x), _TILE_ROWS):
        part = slice(start, start + _TILE_ROWS)
        squares = _squares_to_others(x[part], wide, leaf.half_square, column[part])
        least = squares.amin(1)
        squares.sub_(least[:, None]).nan_to_num_(nan=torch.inf)  # a leaf with nothing but the query itself
        for k, bandwidth in enumerate(bandwidths):
            factor = -0.5 / bandwidth**2
            peak[part, k] = factor * least
            mass[part, k] = _exponentials(squares, factor, powers[: len(squares)]).sum(1)
    return Partial(peak=peak.flatten(), mass=mass.flatten(), moment=torch.empty(mass.numel(), 0, dtype=torch.float64))


def _exponentials(squares: Tensor, factor: float, out: Tensor) -> Tensor:
    """Give exp(factor squares) in ``out``; exponents that underflow are raised, for they take five times as long."""
    return torch.mul(squares, factor, out=out).clamp_(min=_LEAST_EXPONENT).exp_()


def _squares_to_others(x: Tensor, points: Tensor, half_square: Tensor, column: Tensor) -> Tensor:
    """Give squared distances ``[queries, points]``, infinite from a query to itself, which may lie outside."""
    squares = torch.addmm(2 * half_square, x, points.T, alpha=-2).add_(x.square().sum(1, keepdim=True)).clamp_(min=0)
    inside = (column >= 0) & (column < len(points))
    squares[inside.nonzero().squeeze(1), column[inside]] = torch.inf
    return squares


def choose_bandwidth(densities: Densities, *, size: int, std: float) -> float:
    """Give the h of the largest mean leave-one-out log-likelihood: a coarse search, a fine one, and a parabola.

    Args:
        densities: gives the sums of :func:`leave_one_out_sums` over all points for a list of bandwidths.
        size: dimension of the data.
        std: their standard deviation.

    Raises:
        ValueError: the likelihood grows without end as h falls, as it does where most points have a twin.
    """
    coarse = [std * h for h in _geometric(_SMALLEST, _LARGEST, COARSE)]
    best = _likelihoods(densities, coarse, size=size).argmax().item()
    if best == 0:
        raise ValueError(
            "velocity.bandwidth = loo finds no bandwidth, for most points have a twin in the dataset; give a number"
        )
    fine = _geometric(coarse[int(best) - 1], coarse[min(int(best) + 1, COARSE - 1)], FINE)
    likelihoods = _likelihoods(densities, fine, size=size)
    peak = min(max(int(likelihoods.argmax()), 1), FINE - 2)
    left, middle, right = likelihoods[peak - 1 : peak + 2].tolist()
    curvature = left - 2 * middle + right
    offset = 0.5 * (left - right) / curvature if curvature < 0 else 0.0
    return float(fine[peak] * (fine[1] / fine[0]) ** max(-1.0, min(1.0, offset)))


def _likelihoods(densities: Densities, bandwidths: Sequence[float], *, size: int) -> Tensor:
    """Give the mean log-likelihood of each bandwidth but for constants, ``[bandwidths]``."""
    sums = densities(bandwidths)
    logs = (sums.peak + sums.mass.log()).reshape(-1, len(bandwidths))
    return logs.mean(0) - size * torch.tensor(bandwidths, dtype=torch.float64).log()


def _geometric(low: float, high: float, count: int) -> list[float]:
    return [low * math.exp(k / (count - 1) * math.log(high / low)) for k in range(count)]
