"""Sliced W2: equal to W2 on the line, and to its closed forms elsewhere."""

import math

import numpy as np
import pytest

from tasks.evaluation.sliced import sliced_wasserstein
from tasks.evaluation.wasserstein import wasserstein, wasserstein_1d


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 20)])
def test_on_the_line_it_is_the_distance_itself(n: int, m: int) -> None:
    x, y = normal(0, n), normal(1, m) + 1
    assert sliced_wasserstein(x, y, projections=9, seed=3) == pytest.approx(wasserstein_1d(x, y), rel=1e-12)


def test_a_shift_scores_its_length_over_the_root_of_the_dimension() -> None:
    x, shift = normal(0, 30, 8), np.full(8, 2.0)
    found = sliced_wasserstein(x, x + shift, projections=20_000, seed=0)
    # <v, theta>^2 has mean |v|^2 / d and deviation below sqrt(2) of it: 1 % relative error of the square, 3 of them.
    assert found**2 == pytest.approx(32 / 8, rel=0.03)


def test_it_is_below_the_exact_distance_and_scales() -> None:
    x, y = normal(0, 100, 5), 2 * normal(1, 100, 5)
    found = sliced_wasserstein(x, y, projections=64, seed=0)
    assert 0 < found < wasserstein(x, y)
    assert sliced_wasserstein(2 * x, 2 * y, projections=64, seed=0) == pytest.approx(2 * found, rel=1e-12)


def test_order_does_not_matter_and_equal_clouds_are_at_zero() -> None:
    x = normal(0, 100, 3)
    assert sliced_wasserstein(x, x[::-1], projections=70, seed=0) == pytest.approx(0, abs=1e-12)


def test_more_projections_than_a_block_are_averaged_over_all_of_them() -> None:
    x, y = normal(0, 40, 3), normal(1, 40, 3)
    directions = np.random.default_rng(5).standard_normal((3, 150))
    directions /= np.linalg.norm(directions, axis=0)
    squares = [wasserstein_1d(x @ theta, y @ theta) ** 2 for theta in directions.T]
    assert sliced_wasserstein(x, y, projections=150, seed=5) == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-12)


def test_the_seed_decides_the_directions() -> None:
    x, y = normal(0, 40, 3), normal(1, 40, 3)
    first, again, other = (sliced_wasserstein(x, y, projections=8, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_no_projection_is_refused() -> None:
    with pytest.raises(ValueError, match="projections must be at least 1, got 0"):
        sliced_wasserstein(np.zeros((2, 2)), np.zeros((2, 2)), projections=0, seed=0)
