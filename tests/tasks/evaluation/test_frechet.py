"""Streamed moments and the Frechet distance."""

import numpy as np
import pytest

from tasks.evaluation.frechet import Moments, Sketch, frechet, frechet_of_points, frechet_with_error
from tasks.evaluation.wasserstein import gaussian_wasserstein


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def moments(*batches: np.ndarray) -> Moments:
    out = Moments()
    for batch in batches:
        out.update(batch)
    return out


@pytest.mark.parametrize("cuts", [[1], [1, 2, 3], [50], [7, 8, 90]])
def test_streamed_moments_equal_those_of_the_whole(cuts: list[int]) -> None:
    x = normal(0, 100, 2, 3) + 1e3  # far from 0, where sums of squares would lose ten digits
    streamed = moments(*np.split(x, cuts))
    flat = x.reshape(100, 6)
    assert streamed.n == 100
    np.testing.assert_allclose(streamed.mean, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(streamed.covariance, np.cov(flat, rowvar=False), rtol=1e-8, atol=1e-10)


def test_merging_equals_one_stream_in_any_order() -> None:
    x = normal(0, 90, 4)
    parts = [moments(part) for part in np.split(x, [10, 35])]
    for order in ([0, 1, 2], [2, 0, 1]):
        merged = Moments()
        for k in order:
            merged.merge(parts[k])
        np.testing.assert_allclose(merged.mean, x.mean(0), atol=1e-14)
        np.testing.assert_allclose(merged.covariance, np.cov(x, rowvar=False), atol=1e-13)
    assert parts[0].n == 10  # merging takes nothing from the other side


def test_merging_nothing_changes_nothing() -> None:
    here = moments(normal(0, 10, 2))
    before = here.covariance
    here.merge(Moments())
    np.testing.assert_array_equal(here.covariance, before)


def test_what_is_merged_or_given_out_stays_apart() -> None:
    source, target = moments(normal(0, 10, 2)), Moments()
    target.merge(source)
    target.update(normal(1, 10, 2))
    np.testing.assert_array_equal(source.covariance, moments(normal(0, 10, 2)).covariance)
    target.mean[:] = 7
    assert abs(target.mean).max() < 7


def test_float32_batches_are_summed_in_float64() -> None:
    x = (normal(0, 1000, 3) + 300).astype(np.float32)
    np.testing.assert_allclose(moments(x).covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-9)


def test_it_is_the_square_of_the_gaussian_distance() -> None:
    x, y = normal(0, 200, 3, 4), 2 * normal(1, 150, 3, 4) + 0.5
    streamed = frechet(moments(*np.split(x, 4)), moments(*np.split(y, 3)))
    assert streamed == pytest.approx(gaussian_wasserstein(x, y) ** 2, rel=1e-8)


def test_it_agrees_with_the_square_root_of_the_product_of_covariances() -> None:
    x, y = moments(normal(0, 200, 5)), moments(normal(1, 200, 5) @ normal(2, 5, 5))
    # The eigenvalues of S1 S2 are those of S1^(1/2) S2 S1^(1/2): real and at least 0.
    roots = np.sqrt(np.linalg.eigvals(x.covariance @ y.covariance).real)
    expected = ((x.mean - y.mean) ** 2).sum() + np.trace(x.covariance) + np.trace(y.covariance) - 2 * roots.sum()
    assert frechet(x, y) == pytest.approx(expected, rel=1e-9)


def test_equal_moments_are_at_zero_even_when_singular() -> None:
    x = moments(normal(0, 10, 40))
    assert frechet(x, x) == pytest.approx(0, abs=1e-10)


def test_moments_before_their_points_and_of_other_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 points, got 1"):
        frechet(moments(normal(0, 1, 2)), moments(normal(0, 9, 2)))
    with pytest.raises(ValueError, match="at least 1 points, got 0"):
        _ = Moments().mean
    with pytest.raises(ValueError, match="dimension 2 cannot take in points of dimension 3"):
        moments(normal(0, 4, 2), normal(0, 4, 3))
    with pytest.raises(ValueError, match="moments must be"):
        frechet(moments(normal(0, 4, 2)), moments(normal(0, 4, 3)))


@pytest.mark.parametrize("size", [3, 12, 13, 20, 21, 40])
def test_fewer_points_than_dimensions_give_the_same_by_a_smaller_matrix(size: int) -> None:
    x, y = normal(0, 20, size), 2 * normal(1, 12, size) + 0.5
    assert frechet_of_points(x, y) == pytest.approx(frechet(moments(x), moments(y)), rel=1e-8)
    assert frechet_of_points(y, x) == pytest.approx(frechet_of_points(x, y), rel=1e-10)
    assert frechet_of_points(x, x) == pytest.approx(0, abs=1e-10)


def test_many_points_are_taken_in_block_by_block() -> None:
    x, y = normal(0, 2500, 2), normal(1, 2500, 2)
    assert frechet_of_points(x, y) == pytest.approx(frechet(moments(x), moments(y)), rel=1e-9)


def test_points_of_one_row_or_of_other_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 points, got 1"):
        frechet_of_points(normal(0, 1, 5), normal(0, 4, 5))
    with pytest.raises(ValueError, match="one dimension, got 5 and 6"):
        frechet_of_points(normal(0, 4, 5), normal(0, 4, 6))


def sketch(x: np.ndarray, *, cut: int = 100) -> Sketch:
    out = Sketch(len(x))
    for k in range(0, len(x), cut):
        out.update(x[k : k + cut])
    return out


@pytest.mark.parametrize("cut", [1, 7, 1000, 2345])
def test_a_sketch_keeps_the_moments_of_all_points_and_evenly_spaced_ones_whatever_the_cut(cut: int) -> None:
    x = np.arange(2345.0)[:, None] * [1, -1]
    found = sketch(x, cut=cut)
    assert found.kept[:, 0].tolist() == list(range(0, 2345, 2))
    np.testing.assert_allclose(found.moments.covariance, np.cov(x, rowvar=False), rtol=1e-12)


def test_its_distance_is_that_of_the_moments() -> None:
    x, y = normal(0, 300, 6), 2 * normal(1, 200, 6) @ normal(2, 6, 6) + 0.5
    value, error = frechet_with_error(sketch(x), moments(y))
    assert value == pytest.approx(frechet(moments(x), moments(y)), rel=1e-10)
    assert error > 0
    flat = np.pad(x[:9], ((0, 0), (0, 5)))  # fewer points than dimensions, some of which have no width
    thin = np.pad(y[:9], ((0, 0), (0, 5)))
    assert frechet_with_error(sketch(flat), moments(thin))[0] == pytest.approx(frechet_of_points(flat, thin), rel=1e-8)


def test_the_error_is_the_spread_over_draws() -> None:
    """Against a law with another mean and another covariance, so that both parts of the influence count."""
    y = moments(np.array([2.0, 0.5, 1.0]) * normal(99, 5000, 3) + [0.6, 0.0, -0.3])
    found = [frechet_with_error(sketch(normal(seed, 400, 3)), y) for seed in range(200)]
    spread = np.std([value for value, _ in found], ddof=1)
    # the deviation of 200 draws is known to 1 / sqrt(400) of itself
    assert np.mean([error for _, error in found]) == pytest.approx(spread, rel=4 / 20)


def test_on_the_line_the_error_is_that_of_mean_and_deviation() -> None:
    """(m - m')^2 + (s - s')^2: gradients 2 (m - m') and 2 (s - s'), variances s^2 / n and s^2 / 2n for a Gaussian."""
    x = 2.0 * normal(0, 1900, 1)
    y = moments(normal(1, 50_000, 1) + 3.0)
    _, error = frechet_with_error(sketch(x), y)
    gap, width = x.mean() - y.mean[0], x.std() - np.sqrt(y.covariance[0, 0])
    expected = np.sqrt((2 * gap) ** 2 * 4 / 1900 + (2 * width) ** 2 * 4 / 3800)
    assert error == pytest.approx(expected, rel=0.05)
