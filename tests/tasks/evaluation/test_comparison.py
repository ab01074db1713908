"""Distances over many pairs of sets: means, floors, and standard errors that are true."""

import numpy as np
import pytest

from tasks.evaluation.comparison import Load, all_pairs, held, measure, split_pairs
from tasks.evaluation.distance import Floats


def gap(x: Floats, y: Floats) -> float:
    return float(abs(x.mean() - y.mean()))


def sets(count: int, *, size: int = 50, shift: float = 0.0, seed: int = 0) -> list[Load]:
    return [held(x) for x in np.random.default_rng(seed).normal(shift, 1.0, (count, size, 1))]


def test_all_pairs_compare_every_two_sets_once() -> None:
    comparison = all_pairs(sets(4), sets(4, seed=1))
    assert (len(comparison.across), len(comparison.within), comparison.size) == (16, 6, 22)
    seen = []
    measure("gap", gap, comparison, told=lambda: seen.append(1))
    assert len(seen) == 22


def test_split_pairs_keep_to_their_split() -> None:
    data = sets(6, seed=1)
    comparison = split_pairs(sets(3), list(zip(data[::2], data[1::2], strict=True)))
    assert (len(comparison.across), len(comparison.within)) == (6, 3)
    assert {tuple(pair.repetitions) for pair in comparison.across} == {(0,), (1,), (2,)}


def test_sets_are_loaded_a_pair_at_a_time_and_cut_when_loaded() -> None:
    alive: list[int] = []

    def load(k: int) -> Floats:
        alive.append(k)
        return np.full((5, 1), float(k))

    loads: list[Load] = [lambda k=k: load(k) for k in range(6)]  # type: ignore[misc]
    comparison = all_pairs(loads[:3], loads[3:])
    assert alive == []
    sizes: list[tuple[int, int]] = []

    def size(x: Floats, y: Floats) -> float:
        sizes.append((len(x), len(y)))
        return 1.0

    assert measure("size", size, comparison.first(2)).distance.n == 2
    assert set(sizes) == {(2, 2)}
    assert len(alive) == 1 + 2 * 12  # once for n, then both sides of nine pairs across and three within


def test_value_floor_and_ratio_are_the_means_over_pairs() -> None:
    x, y = ([held(np.full((5, 1), v)) for v in side] for side in ((0.0, 1.0, 2.0), (10.0, 11.0, 13.0)))
    found = measure("gap", gap, all_pairs(x, y))
    assert found.distance.value == pytest.approx(np.mean([b - a for a in (0, 1, 2) for b in (10, 11, 13)]))
    assert found.floor.value == pytest.approx((1 + 3 + 2) / 3)
    assert found.ratio.value == pytest.approx(found.distance.value / found.floor.value)
    assert [d.name for d in (found.distance, found.floor, found.ratio)] == ["gap", "gap_floor", "gap_ratio"]
    assert found.distance.n == 5


def test_the_standard_error_of_a_mean_difference_is_the_closed_form() -> None:
    """For the plain difference of means over all pairs, SE^2 is the sum of both sides' squared errors of the mean."""
    x, y = sets(40), sets(40, shift=9.0, seed=1)
    found = measure("gap", gap, all_pairs(x, y))
    means = np.array([s().mean() for s in x]), np.array([s().mean() for s in y])
    expected = np.sqrt(sum(m.var(ddof=1) / len(m) for m in means))
    assert found.distance.standard_error == pytest.approx(expected, rel=0.25)  # the sides share a repetition's number


def test_equal_laws_have_a_ratio_of_one_within_its_error() -> None:
    found = measure("gap", gap, all_pairs(sets(12), sets(12, seed=1)))
    assert abs(found.ratio.value - 1) < 4 * found.ratio.standard_error


def test_two_repetitions_are_too_few() -> None:
    with pytest.raises(ValueError, match=r"evaluation\.repeats must be at least 3 .*got 2"):
        all_pairs(sets(2), sets(2, seed=1))
