"""Numbers with standard errors, and the points behind them."""

import math

import numpy as np
import pytest

from tasks.evaluation.distance import Distance, points, squared_distances, two_sides


@pytest.mark.parametrize(
    "change", [{"value": math.nan}, {"standard_error": -1.0}, {"standard_error": math.nan}, {"n": 0}]
)
def test_a_distance_out_of_range_is_refused(change: dict[str, float]) -> None:
    fields = {"value": 1.0, "standard_error": 0.1, "n": 3} | change
    with pytest.raises(ValueError, match="w2"):
        Distance(name="w2", value=fields["value"], standard_error=fields["standard_error"], n=int(fields["n"]))


def test_points_are_flattened_to_float64() -> None:
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert points(images).shape == (2, 12)
    assert points(images).dtype == np.float64
    assert points(np.ones(5)).shape == (5, 1)


@pytest.mark.parametrize("bad", [np.zeros((0, 2)), np.float64(1.0), np.array([[1.0, math.inf]]), np.array([math.nan])])
def test_points_that_are_none_or_not_finite_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="points must be"):
        points(np.asarray(bad))


def test_sides_of_two_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 and 3"):
        two_sides(np.zeros((4, 2)), np.zeros((4, 3)))


def test_squared_distances_equal_the_sums_of_squared_differences() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(1e4, 1, (7, 3)), rng.normal(1e4, 1, (5, 3))
    direct = ((x[:, None] - y) ** 2).sum(2)
    # Far from the origin: without centring the product would cancel to about 1e-16 * 1e8 * 3.
    np.testing.assert_allclose(squared_distances(x, y), direct, atol=1e-12)


def test_squared_distances_of_many_points_are_those_of_differences() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1100, 3)) + 5, rng.standard_normal((7, 3)) + 5  # over two blocks
    np.testing.assert_allclose(squared_distances(x, y), ((x[:, None] - y) ** 2).sum(2), atol=1e-12)
