"""The closed-form velocity of a dataset: Nadaraya-Watson regression, summed leaf by leaf and merged exactly.

The target is the data smoothed by a Gaussian kernel of bandwidth h (h = 0: the data themselves). With
q = alpha^2 + beta^2 h^2, a query x at time t weighs point x_i by softmax_i(l_i), where

    l_i = (beta x . x_i - beta^2 |x_i|^2 / 2) / q        (the same term of x is dropped for every point)

and with the weighted mean m(x) the velocity is ((alpha alpha' + beta beta' h^2) x + alpha W m) / q, which never divides
by alpha (arXiv 2405.05512, section 2; Nadaraya, 1964; Watson, 1964).

The one idea to know: points are summed in *leaves* of fixed rows, and leaves are merged along a binary tree that
depends on their positions alone. Whoever sums whichever range of leaves, the merged numbers have the same bits.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

LEAF_ROWS = 4096  # long enough for the matrix rate, short enough for the cache
NEGLIGIBLE = 40.0  # weights below e^-40 of a peak are skipped: beneath the rounding of a sum of 10^9 points

_ROUNDING = 2.0**-24  # of float32, relative
_TILE_ROWS = 256  # queries whose logits against a leaf stay in the cache
_LOGIT_ERROR = 2.0**-9  # largest error of a logit for which float32 products serve
_SMALLEST_SIZE = 32  # dimensions below which float64 costs nothing: exponentials dominate
_LEAST_WEIGHT = math.exp(-NEGLIGIBLE)
_SPARSE = 0.6  # share of a leaf's columns below which gathering them pays


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """Points ``x_i`` in consecutive rows of the dataset, flattened."""

    x: Tensor  # [points, size], float32 or float64; may be read-only memory
    half_square: Tensor  # |x_i|^2 / 2, [points] float64
    label: Tensor | None  # [points] int64
    reduced: Tensor | None = None  # [points, directions + 1] float32 (tasks/transport/nearest.py)


class Points(Protocol):
    """A dataset as leaves: leaf k holds rows ``k * LEAF_ROWS <= row < (k + 1) * LEAF_ROWS``."""

    @property
    def rows(self) -> int:
        """Number of points."""
        ...

    def leaf(self, index: int) -> Leaf:
        """Give one leaf."""
        ...


@dataclass(frozen=True, kw_only=True)
class Queries:
    """States at which the sums are asked for, with their coefficients."""

    x: Tensor  # [queries, size], float32 or float64
    beta: Tensor  # [queries, 1] float64
    q: Tensor  # [queries, 1] float64, positive
    label: Tensor | None = None  # [queries] int64; -1: every point counts
    floor: Tensor | None = None  # [queries] float64: a logit that some point reaches; None: none is known


@dataclass(frozen=True, kw_only=True)
class Partial:
    """Sums over a set of points, a query a row; the identity of :func:`merge` is (-inf, 0, 0)."""

    peak: Tensor  # max_i l_i, [queries] float64
    mass: Tensor  # sum_i exp(l_i - peak), [queries] float64
    moment: Tensor  # sum_i exp(l_i - peak) x_i, [queries, size] float64


def leaf_count(rows: int) -> int:
    """Give the number of leaves of so many points."""
    return -(-rows // LEAF_ROWS)


def merge(left: Partial, right: Partial) -> Partial:
    """Give the sums over the union of two disjoint sets of points."""
    peak = torch.maximum(left.peak, right.peak)
    keep, take = (torch.where(side.peak > -torch.inf, (side.peak - peak).exp(), 0.0) for side in (left, right))
    return Partial(
        peak=peak,
        mass=keep * left.mass + take * right.mass,
        moment=torch.addcmul(keep[:, None] * left.moment, take[:, None], right.moment),
    )


@dataclass(frozen=True, kw_only=True)
class Node:
    """The sums over leaves ``index * 2^level <= leaf < (index + 1) * 2^level``, or over those of them that exist."""

    level: int
    index: int
    sums: Partial


def gather(nodes: Iterable[Node]) -> list[Node]:
    """Merge siblings as carries run in a binary counter, for nodes in the order of their leaves.

    What remains of leaves ``a ... b`` is the shortest list of whole nodes, at most two a level, whatever was gathered
    before: gathering the lists of adjacent ranges gives the list of their union, to the same bits.
    """
    stack: list[Node] = []
    for node in nodes:
        while stack and stack[-1].level == node.level and node.index % 2 and stack[-1].index == node.index - 1:
            node = Node(level=node.level + 1, index=node.index // 2, sums=merge(stack.pop().sums, node.sums))
        stack.append(node)
    return stack


def total(nodes: Sequence[Node]) -> Partial:
    """Give the sums over all points from the gathered nodes of all leaves."""
    *rest, last = nodes
    sums = last.sums
    for node in reversed(rest):
        sums = merge(node.sums, sums)
    return sums


def sum_leaf(leaf: Leaf, queries: Queries) -> Partial:
    """Give the sums over one leaf; the products are in float32 where that is exact enough."""
    dtype = product_type(leaf, queries)
    x = leaf.x.to(dtype)
    tiles = [_sum_tile(leaf, x, _rows(queries, k, k + _TILE_ROWS)) for k in range(0, len(queries.x), _TILE_ROWS)]
    return Partial(
        peak=torch.cat([tile.peak for tile in tiles]),
        mass=torch.cat([tile.mass for tile in tiles]),
        moment=torch.cat([tile.moment for tile in tiles]),
    )


def product_type(leaf: Leaf, queries: Queries) -> torch.dtype:
    """Give float32 where the logits of a leaf are then off by less than 2^-9, else float64.

    Near the data end the logits are differences of large numbers, |x| |x_i| / q, and float32 loses them: the bound is
    four times their rounding, one for each of scaling, product, offset and difference (the sums inside a product are
    blocked, so that their errors cancel rather than grow with the dimension).
    """
    if torch.float64 in (leaf.x.dtype, queries.x.dtype) or leaf.x.shape[1] < _SMALLEST_SIZE:
        return torch.float64
    farthest = (2 * leaf.half_square.max()).sqrt()
    size = queries.beta * farthest * (queries.x.norm(dim=1, keepdim=True) + queries.beta * farthest / 2) / queries.q
    return torch.float32 if 4 * _ROUNDING * float(size.max()) < _LOGIT_ERROR else torch.float64


def _sum_tile(leaf: Leaf, x: Tensor, queries: Queries) -> Partial:
    logits = _logits(leaf, x, queries)
    peak = logits.amax(1)
    excess = logits.sub_(peak.clamp_min(torch.finfo(x.dtype).min)[:, None])
    # exponentials that underflow, and products with denormal numbers, take many times as long
    weights = excess.clamp_(min=-2 * NEGLIGIBLE).exp_()
    weights = torch.nn.functional.threshold(weights, _LEAST_WEIGHT, 0.0, inplace=True)
    mass = weights.sum(1, dtype=torch.float64)
    alive = weights.amax(0) > 0
    if alive.sum() < _SPARSE * len(x):
        columns = alive.nonzero().squeeze(1)
        weights, x = weights[:, columns], x[columns]
    return Partial(peak=peak.to(torch.float64), mass=mass, moment=(weights @ x).to(torch.float64))


def _logits(leaf: Leaf, x: Tensor, queries: Queries) -> Tensor:
    """Give l_i of every query and point, ``[queries, points]``; -inf where the labels differ."""
    scaled = (queries.x * (queries.beta / queries.q)).to(x.dtype)
    ratio = queries.beta**2 / queries.q  # [queries, 1]
    logits = scaled @ x.T
    if bool((ratio == ratio[0]).all()):
        logits -= (ratio[0] * leaf.half_square).to(x.dtype)
    else:
        logits -= (ratio * leaf.half_square).to(x.dtype)
    if queries.label is not None and leaf.label is not None:
        differs = (queries.label[:, None] >= 0) & (queries.label[:, None] != leaf.label)
        logits.masked_fill_(differs, -torch.inf)
    return logits


def _rows(queries: Queries, start: int, stop: int) -> Queries:
    part = slice(start, stop)
    return Queries(
        x=queries.x[part],
        beta=queries.beta[part],
        q=queries.q[part],
        label=None if queries.label is None else queries.label[part],
        floor=None if queries.floor is None else queries.floor[part],
    )
