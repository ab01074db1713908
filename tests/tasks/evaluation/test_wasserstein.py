"""Exact W2, W2 on the line, and W2 between Gaussians: closed forms and identities."""

import math
from itertools import permutations

import numpy as np
import pytest
from ot.lp import emd2

from tasks.evaluation import wasserstein as module
from tasks.evaluation.wasserstein import (
    MAX_POINTS,
    gaussian_wasserstein,
    gaussian_wasserstein_of_moments,
    wasserstein,
    wasserstein_1d,
)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_a_tiny_assignment_by_hand() -> None:
    # Straight across costs 1 + 1, crosswise 2 + 2.
    x, y = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    assert wasserstein(x, y) == pytest.approx(1.0, abs=1e-12)


def test_it_is_the_best_of_all_assignments() -> None:
    x, y = normal(0, 6, 3), normal(1, 6, 3)
    best = min(((x - y[list(order)]) ** 2).sum(1).mean() for order in permutations(range(6)))
    assert wasserstein(x, y) == pytest.approx(math.sqrt(best), rel=1e-12)


def test_it_agrees_with_the_value_of_the_linear_programme_on_unequal_sizes() -> None:
    x, y = normal(0, 30, 2), normal(1, 17, 2)
    cost = ((x[:, None] - y) ** 2).sum(2)
    assert wasserstein(x, y) == pytest.approx(math.sqrt(emd2(np.full(30, 1 / 30), np.full(17, 1 / 17), cost)), rel=1e-9)


def test_unequal_sizes_split_mass() -> None:
    # Half of the point at 1 goes to 0 and half to 3: (1 + 4) / 2.
    assert wasserstein(np.array([1.0]), np.array([0.0, 3.0])) == pytest.approx(math.sqrt(2.5))


def test_a_shift_moves_by_its_length() -> None:
    x, shift = normal(0, 200, 4), np.array([1.0, -2.0, 0.5, 3.0])
    assert wasserstein(x, x + shift) == pytest.approx(np.linalg.norm(shift), rel=1e-12)


def test_it_is_zero_between_permutations_of_one_cloud() -> None:
    x = normal(0, 300, 5)
    assert wasserstein(x, np.random.default_rng(1).permutation(x)) == 0.0


def test_it_depends_on_no_order_and_is_symmetric_and_scales() -> None:
    x, y = normal(0, 80, 2), normal(1, 80, 2)
    here = wasserstein(x, y)
    assert wasserstein(x[::-1], np.roll(y, 7, axis=0)) == pytest.approx(here, rel=1e-12)
    assert wasserstein(y, x) == pytest.approx(here, rel=1e-12)
    assert wasserstein(3 * x, 3 * y) == pytest.approx(3 * here, rel=1e-12)


def test_images_count_as_their_flat_points() -> None:
    x, y = normal(0, 20, 2, 3, 3), normal(1, 20, 2, 3, 3)
    assert wasserstein(x, y) == wasserstein(x.reshape(20, 18), y.reshape(20, 18))


def test_float32_points_are_summed_in_float64() -> None:
    x = (normal(0, 50, 2) + 1000).astype(np.float32)
    assert wasserstein(x, x + np.float32(0.5)) == pytest.approx(math.sqrt(0.5), rel=1e-12)


def test_too_many_points_are_refused_and_the_key_is_named() -> None:
    with pytest.raises(ValueError, match=r"at most 10000 points.*got 10001.*evaluation\.samples"):
        wasserstein(np.zeros((3, 2)), np.zeros((MAX_POINTS + 1, 2)))


def test_a_solver_that_stops_early_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_PIVOTS", 3)
    with pytest.raises(RuntimeError, match="found no optimal plan"):
        wasserstein(normal(0, 200, 2), normal(1, 200, 2))


def test_on_the_line_sorted_points_are_coupled() -> None:
    assert wasserstein_1d(np.array([3.0, 0.0, 1.0]), np.array([2.0, 5.0, 1.0])) == pytest.approx(math.sqrt(2.0))


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 30), (13, 7), (1, 5), (6, 12)])
def test_on_the_line_it_equals_the_linear_programme(n: int, m: int) -> None:
    x, y = normal(0, n), normal(1, m) * 2 + 1
    assert wasserstein_1d(x, y) == pytest.approx(wasserstein(x, y), rel=1e-9)


def test_repeating_every_point_changes_nothing_on_the_line() -> None:
    x, y = normal(0, 11), normal(1, 9)
    assert wasserstein_1d(np.repeat(x, 3), y) == pytest.approx(wasserstein_1d(x, y), rel=1e-12)


def test_the_sorted_coupling_refuses_the_plane() -> None:
    with pytest.raises(ValueError, match="got dimension 2"):
        wasserstein_1d(np.zeros((4, 2)), np.zeros((4, 2)))


def test_gaussians_of_commuting_covariances_differ_by_their_deviations() -> None:
    rotation, _ = np.linalg.qr(normal(0, 3, 3))
    first, second = np.array([1.0, 2.0, 3.0]), np.array([0.5, 4.0, 0.0])  # deviations, one of them degenerate
    mean = np.array([1.0, 0.0, -2.0])
    value = gaussian_wasserstein_of_moments(
        np.zeros(3), rotation @ np.diag(first**2) @ rotation.T, mean, rotation @ np.diag(second**2) @ rotation.T
    )
    assert value == pytest.approx(math.sqrt(5 + ((first - second) ** 2).sum()), rel=1e-7)


def test_two_by_two_gaussians_follow_the_trace_formula() -> None:
    # For 2 x 2 matrices Tr (S1 S2)^(1/2) = sqrt(Tr S1 S2 + 2 sqrt(det S1 S2)), though these two do not commute.
    first, second = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    product = first @ second
    cross = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    value = gaussian_wasserstein_of_moments(np.zeros(2), first, np.zeros(2), second)
    assert value**2 == pytest.approx(np.trace(first) + np.trace(second) - 2 * cross, rel=1e-10)


def test_an_affine_image_is_at_the_distance_of_its_moments() -> None:
    # Sample moments of a x + b are exactly those of x, scaled: W2^2 = |b|^2 + (a - 1)^2 Tr S.
    x = normal(0, 40, 3)
    shift = np.array([1.0, 2.0, 2.0])
    centred = x - x.mean(0)
    variance = (centred**2).sum() / 39
    assert gaussian_wasserstein(centred, 3 * centred + shift) == pytest.approx(math.sqrt(9 + 4 * variance), rel=1e-9)


def test_the_gaussian_distance_is_below_the_exact_one() -> None:
    x, y = normal(0, 60, 2), normal(1, 60, 2) ** 3
    biased = 59 / 60  # Gelbrich's bound is for the empirical law, whose covariance divides by n
    lower = gaussian_wasserstein_of_moments(
        x.mean(0), biased * np.cov(x, rowvar=False), y.mean(0), biased * np.cov(y, rowvar=False)
    )
    assert 0 < lower < wasserstein(x, y)


def test_gaussians_of_one_dimension_and_of_more_dimensions_than_points() -> None:
    x, y = normal(0, 50), 2 * normal(1, 50)
    expected = math.hypot(x.mean() - y.mean(), x.std(ddof=1) - y.std(ddof=1))
    assert gaussian_wasserstein(x, y) == pytest.approx(expected, rel=1e-8)
    wide = normal(2, 5, 40)
    assert gaussian_wasserstein(wide, wide + 1) == pytest.approx(math.sqrt(40), rel=1e-7)


def test_moments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="moments must be"):
        gaussian_wasserstein_of_moments(np.zeros(2), np.eye(2), np.zeros(2), np.eye(3))
    with pytest.raises(ValueError, match="at least 2 points"):
        gaussian_wasserstein(np.zeros((1, 2)), np.zeros((5, 2)))
