"""The kernel's sums as a velocity field, wherever the points lie."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tasks.transport.field import Guided, VelocityField
from tasks.transport.interpolant import Coefficients, Interpolant, expand
from tasks.transport.kernel import LEAF_ROWS, Node, Partial, Points, Queries, gather, leaf_count, sum_leaf, total
from tasks.transport.nearest import Nearest, Reduction, find_nearest, is_near, nearer, sum_near


class Regression(Protocol):
    """Whoever holds the points, all or by shards; ``reduced`` are queries' reduced coordinates, None for no search."""

    def nearest(self, queries: Queries, reduced: Tensor) -> Nearest:
        """Give each query's nearest point by reduced distance."""
        ...

    def sums(self, queries: Queries, reduced: Tensor | None) -> Partial:
        """Give the sums over all points."""
        ...


@dataclass(frozen=True, kw_only=True)
class HeldPoints:
    """Points that this process reads itself, leaf by leaf."""

    points: Points

    def nearest(self, queries: Queries, reduced: Tensor) -> Nearest:
        """Give each query's nearest point by reduced distance."""
        return search_range(self.points, range(leaf_count(self.points.rows)), queries, reduced)

    def sums(self, queries: Queries, reduced: Tensor | None) -> Partial:
        """Give the sums over all points."""
        return total(sum_range(self.points, range(leaf_count(self.points.rows)), queries, reduced))


def search_range(points: Points, leaves: range, queries: Queries, reduced: Tensor) -> Nearest:
    """Give each query's nearest point in a range of leaves."""
    first, *others = leaves
    found = find_nearest(points.leaf(first), queries, reduced, start=first * LEAF_ROWS)
    for k in others:
        found = nearer(found, find_nearest(points.leaf(k), queries, reduced, start=k * LEAF_ROWS))
    return found


def sum_range(points: Points, leaves: range, queries: Queries, reduced: Tensor | None) -> list[Node]:
    """Give the gathered sums over a range of leaves."""

    def one(leaf: int) -> Partial:
        held = points.leaf(leaf)
        return sum_leaf(held, queries) if reduced is None else sum_near(held, queries, reduced)

    return gather(Node(level=0, index=k, sums=one(k)) for k in leaves)


@dataclass(frozen=True, kw_only=True, eq=False)
class KernelField:
    """The velocity field of a dataset smoothed by a Gaussian kernel.

    Sums and the results' algebra are in float64; states keep their type.

    Attributes:
        interpolant: the interpolant of the flow.
        bandwidth: h, in the units of the states; 0 for the data themselves, whose velocity is infinite at t = 1.
        reduction: how points near a query are found.
        regression: who holds the points.
    """

    interpolant: Interpolant
    bandwidth: float
    reduction: Reduction
    regression: Regression

    def velocity(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        """Give ((alpha alpha' + beta beta' h^2) x + alpha W m) / q in the shape and type of ``x_t [batch, *dim]``.

        Raises:
            ValueError: a label that no point has.
        """
        flat, c, q, mean = self._regress(t, x_t, label)
        slope = c.noise_product + c.data * c.data_rate * self.bandwidth**2
        return ((slope * flat + c.gain * mean) / q).reshape(x_t.shape).to(x_t.dtype)

    def denoiser(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        """Give (alpha^2 m + beta h^2 x) / q in the shape and type of ``x_t [batch, *dim]``."""
        flat, c, q, mean = self._regress(t, x_t, label)
        return ((c.noise**2 * mean + c.data * self.bandwidth**2 * flat) / q).reshape(x_t.shape).to(x_t.dtype)

    def given(self, label: Tensor, guidance: float) -> VelocityField:
        """Give the field of rows with these labels: regression over the points of each row's class."""
        return Guided(field=self, label=label, guidance=guidance)

    def _regress(self, t: Tensor, x_t: Tensor, label: Tensor | None) -> tuple[Tensor, Coefficients, Tensor, Tensor]:
        """Give the states in float64 ``[batch, size]``, the coefficients, q and the weighted mean m of the points."""
        flat = x_t.flatten(1)
        wide = flat.to(torch.float64)
        c = self.interpolant.at(expand(t.to(torch.float64), wide))
        q = c.noise**2 + (c.data * self.bandwidth) ** 2
        queries = Queries(
            x=flat if flat.dtype in (torch.float32, torch.float64) else flat.to(torch.float32),
            beta=torch.as_tensor(c.data).expand(len(flat), 1),
            q=q.expand(len(flat), 1),
            label=label,
        )
        sums = self._sum(queries)
        if not bool((sums.mass > 0).all()):
            raise ValueError("a label has no points in the dataset, so it has no velocity")
        return wide, c, q, sums.moment / sums.mass[:, None]

    def _sum(self, queries: Queries) -> Partial:
        if not is_near(queries, self.reduction):
            return self.regression.sums(queries, None)
        reduced = self.reduction.reduce(queries.x.to(torch.float64) / queries.beta)
        floor = self.regression.nearest(queries, reduced).logit
        return self.regression.sums(
            Queries(x=queries.x, beta=queries.beta, q=queries.q, label=queries.label, floor=floor), reduced
        )
