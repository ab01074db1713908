"""A distance between sets of samples and sets of data, beside its floor: the same distance between sets of data.

A distance between finite samples is never zero, and for laws with separate pieces it varies much from draw to draw: the
floor of two moons at 2,000 points by 28 %. So several sets of each side are compared in many pairs, and the standard
errors come from a jackknife that leaves out one repetition, a set of each side, at a time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from statistics import fmean

from tasks.evaluation.distance import Distance, Floats

Load = Callable[[], Floats]  # gives a set, [n, *dim], whenever it is needed: sets of images would fill the memory


def held(x: Floats) -> Load:
    """Give a set that is in memory."""
    return lambda: x


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two sets to compare, and the repetitions that they belong to."""

    x: Load  # [n, *dim]
    y: Load  # [m, *dim]
    repetitions: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Which sets are compared: samples with data, and data with data for the floor.

    Raises:
        ValueError: fewer than three repetitions, which have no standard error.
    """

    across: tuple[Pair, ...]
    within: tuple[Pair, ...]
    repetitions: int

    def __post_init__(self) -> None:
        if self.repetitions < 3:
            raise ValueError(f"evaluation.repeats must be at least 3 for a standard error, got {self.repetitions}")

    def first(self, n: int) -> "Comparison":
        """Give the same comparison of the first ``n`` points of each set."""
        across, within = (tuple(_first(pair, n) for pair in pairs) for pairs in (self.across, self.within))
        return Comparison(across=across, within=within, repetitions=self.repetitions)

    @property
    def size(self) -> int:
        """Number of pairs."""
        return len(self.across) + len(self.within)


def _first(pair: Pair, n: int) -> Pair:
    x, y = (partial(lambda load: load()[:n], load) for load in (pair.x, pair.y))
    return Pair(x=x, y=y, repetitions=pair.repetitions)


def all_pairs(samples: Sequence[Load], data: Sequence[Load]) -> Comparison:
    """Compare every set of samples with every set of data, and every two sets of data; all sets are independent."""
    return Comparison(
        across=tuple(
            Pair(x=samples[i], y=data[j], repetitions=frozenset({i, j}))
            for i, j in product(range(len(samples)), range(len(data)))
        ),
        within=tuple(
            Pair(x=data[i], y=data[j], repetitions=frozenset({i, j})) for i, j in combinations(range(len(data)), 2)
        ),
        repetitions=len(data),
    )


def split_pairs(samples: Sequence[Load], halves: Sequence[tuple[Load, Load]]) -> Comparison:
    """Compare set k of samples with both halves of split k of a dataset, and the halves with each other."""
    return Comparison(
        across=tuple(
            Pair(x=x, y=half, repetitions=frozenset({k}))
            for k, (x, split) in enumerate(zip(samples, halves, strict=True))
            for half in split
        ),
        within=tuple(Pair(x=a, y=b, repetitions=frozenset({k})) for k, (a, b) in enumerate(halves)),
        repetitions=len(halves),
    )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A distance, its floor and their ratio."""

    distance: Distance
    floor: Distance
    ratio: Distance


def measure(
    name: str,
    distance: Callable[[Floats, Floats], float],
    comparison: Comparison,
    *,
    told: Callable[[], None] = lambda: None,
) -> Measured:
    """Give the means over all pairs, with jackknife standard errors; ``told`` is called after each pair.

    Args:
        name: public name; the floor's is ``<name>_floor``, the ratio's ``<name>_ratio``.
        distance: of two sets.
        comparison: the pairs.
        told: for a progress bar.
    """

    n = len(comparison.across[0].x())

    def values(pairs: tuple[Pair, ...]) -> Iterator[tuple[float, frozenset[int]]]:
        for pair in pairs:
            yield distance(pair.x(), pair.y()), pair.repetitions
            told()

    across, within = list(values(comparison.across)), list(values(comparison.within))

    def means(without: int | None) -> tuple[float, float, float]:
        value, floor = (fmean(v for v, r in found if without not in r) for found in (across, within))
        return value, floor, value / floor if floor > 0 else math.inf

    whole = means(None)
    left_out = [means(k) for k in range(comparison.repetitions)]
    distances = [
        Distance(name=f"{name}{suffix}", value=value, standard_error=_jackknife_error(replicates), n=n)
        for suffix, value, replicates in zip(("", "_floor", "_ratio"), whole, zip(*left_out, strict=True), strict=True)
    ]
    return Measured(distance=distances[0], floor=distances[1], ratio=distances[2])


def _jackknife_error(replicates: tuple[float, ...]) -> float:
    """Give the standard error from the statistic without each of the repetitions in turn (Efron, 1979)."""
    centre = fmean(replicates)
    share = (len(replicates) - 1) / len(replicates)
    return math.sqrt(share * sum((value - centre) ** 2 for value in replicates))
