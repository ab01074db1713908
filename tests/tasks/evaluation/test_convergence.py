"""Power laws: exact ones are found again, their uncertainty is that of a straight line, coarse points are left out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import linregress, t

from tasks.evaluation.convergence import fit_power_law, fit_tail

X = np.array([4.0, 8.0, 16.0, 32.0, 64.0])


@given(slope=st.floats(-3, 3), factor=st.floats(1e-6, 1e6), x=st.sets(st.integers(1, 10_000), min_size=2, max_size=8))
def test_an_exact_power_law_is_found_whatever_its_points(slope: float, factor: float, x: set[int]) -> None:
    points = np.array(sorted(x), float)
    law = fit_power_law(points, factor * points**slope)
    assert [law.slope, law.last] == pytest.approx([slope, slope], abs=1e-7)
    assert law.at(points) == pytest.approx(factor * points**slope, rel=1e-6)
    assert (law.standard_error is None) == (len(points) == 2)
    if law.standard_error is not None:
        assert law.standard_error == pytest.approx(0, abs=1e-7)


@given(st.lists(st.floats(-1, 1), min_size=5, max_size=5))
def test_slope_error_and_interval_are_those_of_a_straight_line(noise: list[float]) -> None:
    y = np.exp(np.array(noise)) / X
    law, line = fit_power_law(X, y), linregress(np.log(X), np.log(y))
    assert law.slope == pytest.approx(line.slope, abs=1e-12)
    assert law.standard_error == pytest.approx(line.stderr, abs=1e-12)
    half = t.ppf(0.975, 3) * line.stderr
    assert law.interval() == pytest.approx((line.slope - half, line.slope + half), abs=1e-9)
    assert law.last == pytest.approx(-1 + (noise[4] - noise[3]) / np.log(2), abs=1e-9)


def test_the_band_holds_the_true_line_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    at = np.array([4.0, 64.0, 200.0])
    inside = np.zeros(3)
    for _ in range(2000):
        band = fit_power_law(X, np.exp(0.3 * rng.standard_normal(5)) / X).band(at)
        assert band is not None
        inside += (band[0] < 1 / at) & (1 / at < band[1])
    assert inside / 2000 == pytest.approx([0.95] * 3, abs=0.02)  # four standard errors of a share of 0.95


def test_two_points_have_a_slope_and_no_uncertainty() -> None:
    law = fit_power_law(X[:2], np.array([1.0, 0.25]))
    assert [law.slope, law.last, law.points] == pytest.approx([-2, -2, 2])
    assert law.standard_error is None
    assert law.interval() is None
    assert law.band(X) is None


def test_coarse_points_that_do_not_follow_are_left_out() -> None:
    y = 1 / X**2
    y[:2] *= [0.01, 0.5]
    law = fit_tail(X, y)
    assert [law.points, law.slope] == pytest.approx([3, -2])
    assert fit_power_law(X, y).slope > -1.5


@pytest.mark.parametrize(("stray", "points"), [(0.04, 5), (0.06, 4)])
def test_a_slope_counts_as_asymptotic_within_a_twentieth(stray: float, points: int) -> None:
    y = 1 / X
    y[0] *= 2**stray  # the first slope is that much steeper
    assert fit_tail(X, y).points == points


def test_three_points_stay_however_they_lie() -> None:
    assert fit_tail(X, np.array([1.0, 0.9, 0.5, 0.4, 0.01])).points == 3
    assert fit_tail(X[:2], np.array([1.0, 0.9])).points == 2


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([1.0], [1.0]),
        ([1.0, 1.0], [1.0, 2.0]),
        ([2.0, 1.0], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, 0.0]),
        ([0.0, 1.0], [1, 1]),
    ],
)
@pytest.mark.parametrize("fit", [fit_power_law, fit_tail])
def test_points_that_make_no_line_are_refused(fit: object, x: list[float], y: list[float]) -> None:
    assert callable(fit)
    with pytest.raises(ValueError, match="a power law needs two points or more, positive and ascending in x"):
        fit(np.array(x), np.array(y, float))
