"""Near the data end only points close to a query count: finding them without measuring the distance to all.

A point's *reduced* coordinates are its projections on the leading principal directions of the data and, last, the
norm of what they leave out. Distances between reduced coordinates never exceed the true ones (Pythagoras for the first
part, the triangle inequality for the last), so they rule points out at a fraction of the cost; what is left is weighed
exactly, in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.transport.kernel import NEGLIGIBLE, Leaf, Partial, Queries, sum_leaf

DIRECTIONS = 64
FITTED_ROWS = 8192  # rows whose principal directions are taken
_COMPARED_ROWS = 1024  # about as many rows, whose mutual distances tell where the search pays
_REACHED_SHARE = 1e-3  # of the points, that may lie in reach of a query for the search to pay
_TILE_ROWS = 256
_ROUNDING = 2.0**-19  # of a float32 squared distance, relative to the largest squared norm; generous
_DENSEST = 0.05  # share of a leaf's pairs in reach above which a dense sum is quicker


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """How points are reduced, and to what distance from a query the search pays.

    Without directions (data of few dimensions) ``reach`` is 0 and there is no search.
    """

    directions: Tensor  # [size, DIRECTIONS] float32, orthonormal
    reach: float  # a small quantile of the squared distances between reduced points

    def reduce(self, x: Tensor) -> Tensor:
        """Give reduced coordinates ``[rows, DIRECTIONS + 1]`` float32 of ``x [rows, size]``."""
        projected = x.to(torch.float32) @ self.directions
        square = x.to(torch.float64).square().sum(1) - projected.to(torch.float64).square().sum(1)
        return torch.cat([projected, square.clamp_min(0).sqrt().to(torch.float32)[:, None]], 1)


def fit_reduction(x: Tensor, *, seed: int) -> Reduction:
    """Fit the reduction to a sample of the data, ``[rows, size]``; what it finds changes the cost, never the sums."""
    size = x.shape[1]
    if size < 2 * DIRECTIONS or len(x) < 2 * DIRECTIONS:
        return Reduction(directions=torch.empty(size, 0), reach=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, _, directions = torch.svd_lowrank(x[:FITTED_ROWS].to(torch.float32), q=DIRECTIONS, niter=2)
    reduction = Reduction(directions=directions.contiguous(), reach=0.0)
    apart = max(1, len(x) // _COMPARED_ROWS)  # rows next to each other may be of one class
    some = reduction.reduce(x[::apart]).to(torch.float64)
    squares = torch.pdist(some).square().sort().values
    return Reduction(directions=reduction.directions, reach=float(squares[int(_REACHED_SHARE * len(squares))]))


def is_near(queries: Queries, reduction: Reduction) -> bool:
    """Tell whether the search pays: whether few points lie within the distance at which weights become negligible.

    A query x / beta lies about q (size - DIRECTIONS) / beta^2 (squared) off its point in the directions left out, which
    the bound cannot see, and 2 * NEGLIGIBLE q / beta^2 farther weights are negligible.
    """
    if reduction.reach <= 0 or float(queries.beta.min()) <= 0:
        return False
    unseen = queries.x.shape[1] - DIRECTIONS
    return float((queries.q / queries.beta**2).max()) * (2 * NEGLIGIBLE + unseen) < reduction.reach


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Each query's nearest point by reduced distance among those seen; equal ones go to the lower row."""

    closeness: Tensor  # larger is closer, [queries] float32; -inf where no point may be taken
    row: Tensor  # of the dataset, [queries] int64
    logit: Tensor  # its exact logit, [queries] float64


def nearer(left: Nearest, right: Nearest) -> Nearest:
    """Give the nearest of two sets of points, the left one's rows being the lower ones."""
    keep = left.closeness >= right.closeness
    return Nearest(
        closeness=torch.where(keep, left.closeness, right.closeness),
        row=torch.where(keep, left.row, right.row),
        logit=torch.where(keep, left.logit, right.logit),
    )


def find_nearest(leaf: Leaf, queries: Queries, reduced: Tensor, *, start: int) -> Nearest:
    """Give the nearest points of one leaf, whose first row is ``start``; ``reduced`` are the queries' own coordinates.

    The logit is exact for the point that is given: some point reaches it, so none of the leaf's sums needs points whose
    logit is ``NEGLIGIBLE`` lower.
    """
    closest = [tile.max(1) for _, tile in _closeness(leaf, queries, reduced)]
    column = torch.cat([found.indices for found in closest])
    closeness = torch.cat([found.values for found in closest])
    rows = torch.arange(len(queries.x))
    logit = torch.where(closeness > -torch.inf, _exact_logits(leaf, queries, rows, column), -torch.inf)
    return Nearest(closeness=closeness, row=start + column, logit=logit)


def sum_near(leaf: Leaf, queries: Queries, reduced: Tensor) -> Partial:
    """Give a leaf's sums over the points that count beside ``queries.floor``, weighed in float64.

    Which points count is a function of queries and leaf alone; a leaf with very many of them is summed densely.
    """
    assert queries.floor is not None
    rows, columns = _in_reach(leaf, queries, reduced)
    if len(rows) > _DENSEST * len(queries.x) * len(leaf.x):
        return sum_leaf(leaf, queries)
    logits = _exact_logits(leaf, queries, rows, columns)
    counts = logits >= queries.floor[rows] - NEGLIGIBLE
    rows, columns, logits = rows[counts], columns[counts], logits[counts]
    count, size = queries.x.shape
    peak = torch.full((count,), -torch.inf, dtype=torch.float64).scatter_reduce_(0, rows, logits, "amax")
    weights = (logits - peak[rows]).exp()
    mass = torch.zeros(count, dtype=torch.float64).index_add_(0, rows, weights)
    moment = torch.zeros(count, size, dtype=torch.float64)
    for part in range(0, len(rows), _TILE_ROWS):
        some = slice(part, part + _TILE_ROWS)
        moment.index_add_(0, rows[some], weights[some, None] * leaf.x[columns[some]].to(torch.float64))
    return Partial(peak=peak, mass=mass, moment=moment)


def _in_reach(leaf: Leaf, queries: Queries, reduced: Tensor) -> tuple[Tensor, Tensor]:
    """Give the pairs (query, point) whose reduced distance does not rule them out, as two lists of indices.

    With u = x / beta a logit is (|u|^2 - |u - x_i|^2) beta^2 / (2 q), so a point can only count where its squared
    reduced distance is at most |u|^2 - 2 q (floor - NEGLIGIBLE) / beta^2, and rounding.
    """
    assert queries.floor is not None
    assert leaf.reduced is not None
    beta, q = queries.beta[:, 0], queries.q[:, 0]
    square = queries.x.to(torch.float64).square().sum(1) / beta**2
    farthest = square.sqrt() + (2 * leaf.half_square.max()).sqrt()
    limit = square - 2 * q / beta**2 * (queries.floor - NEGLIGIBLE) + _ROUNDING * farthest**2
    least = ((reduced.to(torch.float64).square().sum(1) - limit) / 2).to(torch.float32)
    found = []
    for start, tile in _closeness(leaf, queries, reduced):
        pairs = (tile >= least[start : start + len(tile), None]).nonzero()
        found.append((pairs[:, 0] + start, pairs[:, 1]))
    rows, columns = (torch.cat(parts) for parts in zip(*found, strict=True))
    return rows, columns


def _closeness(leaf: Leaf, queries: Queries, reduced: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Give, a tile of queries at a time, r . r_i - |r_i|^2 / 2: half of |r|^2 less the squared reduced distance."""
    assert leaf.reduced is not None
    offset = -0.5 * leaf.reduced.square().sum(1)
    for start in range(0, len(reduced), _TILE_ROWS):
        part = slice(start, start + _TILE_ROWS)
        tile = torch.addmm(offset, reduced[part], leaf.reduced.T)
        if queries.label is not None and leaf.label is not None:
            label = queries.label[part, None]
            tile.masked_fill_((label >= 0) & (label != leaf.label), -torch.inf)
        yield start, tile


def _exact_logits(leaf: Leaf, queries: Queries, rows: Tensor, columns: Tensor) -> Tensor:
    """Give the logits of pairs (query, point) in float64, ``[pairs]``."""
    logits = torch.empty(len(rows), dtype=torch.float64)
    for part in range(0, len(rows), _TILE_ROWS):
        some = slice(part, part + _TILE_ROWS)
        x, points = queries.x[rows[some]].to(torch.float64), leaf.x[columns[some]].to(torch.float64)
        logits[some] = (x * points).sum(1)
    beta, q = queries.beta[rows, 0], queries.q[rows, 0]
    return (beta * logits - beta**2 * leaf.half_square[columns]) / q
