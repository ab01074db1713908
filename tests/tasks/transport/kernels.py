"""Datasets in memory as a kernel's points, and the definition of its velocity, spelled out."""

import torch
from torch import Tensor

from tasks.transport.interpolant import Interpolant
from tasks.transport.kernel import LEAF_ROWS, Leaf
from tasks.transport.kernel_field import HeldPoints, KernelField
from tasks.transport.nearest import Reduction, fit_reduction


class MemoryPoints:
    """Points ``[rows, size]`` held in memory."""

    def __init__(self, x: Tensor, *, label: Tensor | None = None, reduction: Reduction | None = None) -> None:
        self.rows = len(x)
        self.x, self.label, self.reduction = x, label, reduction
        self.half_square = x.to(torch.float64).square().sum(1) / 2

    def leaf(self, index: int) -> Leaf:
        part = slice(index * LEAF_ROWS, (index + 1) * LEAF_ROWS)
        return Leaf(
            x=self.x[part],
            half_square=self.half_square[part],
            label=None if self.label is None else self.label[part],
            reduced=None if self.reduction is None else self.reduction.reduce(self.x[part]),
        )


def no_search(size: int) -> Reduction:
    return Reduction(directions=torch.empty(size, 0), reach=0.0)


def field_of(
    x: Tensor, *, kind: str = "linear", bandwidth: float = 0.0, label: Tensor | None = None, searches: bool = False
) -> KernelField:
    reduction = fit_reduction(x, seed=0) if searches else no_search(x.shape[1])
    points = MemoryPoints(x, label=label, reduction=reduction if searches else None)
    return KernelField(
        interpolant=Interpolant(kind), bandwidth=bandwidth, reduction=reduction, regression=HeldPoints(points=points)
    )


def velocity_by_definition(x: Tensor, *, kind: str, bandwidth: float, t: Tensor, x_t: Tensor) -> Tensor:
    """Give the velocity by one softmax over all points with squared distances taken term by term, float64."""
    c = Interpolant(kind).at(t.to(torch.float64))
    q = c.noise**2 + (c.data * bandwidth) ** 2
    x, x_t = x.to(torch.float64), x_t.to(torch.float64)
    squares = torch.stack([(row - c.data * x).square().sum(1) for row in x_t])
    mean = torch.softmax(-squares / (2 * q), 1) @ x
    slope = c.noise_product + c.data * c.data_rate * bandwidth**2
    return (slope * x_t + c.gain * mean) / q
