"""The terms of the budget on a Gaussian, whose Euler map is a number; errors of sums; Richardson's rule."""

import math

import numpy as np
import pytest

from tasks.evaluation.budget import (
    TERMS,
    Ends,
    ErrorBudget,
    Gaps,
    budget_terms,
    early_stopping,
    excess,
    gaps_of,
    joined,
    observed_order,
    richardson,
)
from tasks.evaluation.comparison import Measured
from tasks.evaluation.distance import Distance, Floats

STD, STEPS = 2.0, 16
ONES = np.ones(2)


def euler_factor(steps: int) -> float:
    """What Euler's steps multiply N(0, 1) by on its way to N(0, STD^2), linear interpolant."""
    times = [k / steps for k in range(steps)]
    return math.prod(1 + (STD**2 * t - (1 - t)) / ((1 - t) ** 2 + STD**2 * t**2) / steps for t in times)


def noise(n: int = 4000) -> Floats:
    return np.random.default_rng(0).standard_normal((n, 2))


def euler_ends(x0: Floats) -> Ends:
    """Of an exact velocity."""
    solver = [euler_factor(k * STEPS) * x0 for k in (1, 2, 4)]
    return Ends(solver=(solver[0], solver[1], solver[2]), limit=STD * x0, exact=STD * x0)


def test_the_euler_term_of_a_gaussian_is_its_closed_form() -> None:
    terms = budget_terms(gaps_of(euler_ends(noise()), scale=ONES), fit=np.zeros(4000), stopping=0.0, rows=1)
    known = math.sqrt(2) * abs(euler_factor(STEPS) - STD)
    assert abs(terms["euler"].value - known) < 3 * terms["euler"].standard_error
    assert terms["euler"].standard_error == pytest.approx(known / math.sqrt(2 * 2 * 4000), rel=0.1)
    assert terms["fit"].value == terms["velocity"].value == terms["fit"].standard_error == 0
    assert terms["bound"] == Distance(
        name="budget.bound", value=terms["euler"].value, standard_error=terms["euler"].standard_error, n=4000
    )


def test_richardsons_limit_is_nearer_by_an_order() -> None:
    ends = euler_ends(noise())
    limit = richardson(ends.solver[2], ends.solver[1], order=1)
    assert abs(limit - ends.exact).max() < 0.05 * abs(ends.solver[2] - ends.exact).max()
    steps = np.array([8.0, 16.0])
    assert richardson(*(3 + 7 / steps**2)[::-1], order=2) == pytest.approx(3)


def test_the_observed_order_is_that_of_the_gaps() -> None:
    gaps = gaps_of(euler_ends(noise()), scale=ONES)
    assert observed_order(gaps) == pytest.approx(1, abs=0.1)
    x = noise(10)
    second = Ends(solver=(x, (1 - 3 / 16) * x, (1 - 3 / 16 - 3 / 64) * x), limit=x, exact=x)
    assert observed_order(gaps_of(second, scale=ONES)) == pytest.approx(2)
    assert observed_order(gaps_of(Ends(solver=(x, x, x), limit=x, exact=x), scale=ONES)) is None


def test_gaps_are_whole_in_data_units_and_those_of_the_right_ends() -> None:
    zero = np.zeros((3, 1, 2), np.float32)
    ends = Ends(solver=(zero + 3, zero + 4, zero + 6), limit=zero + 8, exact=zero + 13)
    found = joined([gaps_of(ends, scale=np.array([[1.0, 3.0]]))] * 2)
    for squares, gap in ((found.euler, 5), (found.velocity, 5), (found.coarse, 1), (found.fine, 2)):
        assert squares.tolist() == [gap**2 * (1 + 9)] * 6


def test_early_stopping_is_the_distance_of_coupled_points() -> None:
    rng = np.random.default_rng(1)
    scale, mean, std = np.array([2.0, 0.5]), np.array([0.3, -1.0]), np.array([1.0, 0.7])
    x0, x1 = rng.standard_normal((200_000, 2)), mean + std * rng.standard_normal((200_000, 2))
    coupled = math.sqrt((((scale * (0.3 * x0 + 0.8 * x1 - x1)) ** 2).sum(1)).mean())
    assert early_stopping(0.3, 0.8, scale=scale, second_moments=mean**2 + std**2) == pytest.approx(coupled, rel=5e-3)
    assert early_stopping(0.0, 1.0, scale=scale, second_moments=mean) == 0


def terms_of(fit: Floats, euler: Floats, velocity: Floats) -> dict[str, Distance]:
    gaps = Gaps(euler=euler, velocity=velocity, coarse=euler, fine=euler)
    return budget_terms(gaps, fit=fit, stopping=0.5, rows=77)


def test_the_bound_is_the_sum_and_its_error_knows_that_terms_share_their_paths() -> None:
    squares = np.random.default_rng(2).chisquare(3, (3, 500))
    terms = terms_of(*squares)
    assert tuple(terms) == ("early_stopping", "velocity", "euler", "fit", "bound")
    assert terms["bound"].value == pytest.approx(sum(terms[name].value for name in TERMS))
    apart = math.hypot(*(terms[name].standard_error for name in TERMS))
    assert terms["bound"].standard_error == pytest.approx(apart, rel=0.1)
    same = terms_of(*squares[[0, 0, 0]])
    assert same["bound"].standard_error == pytest.approx(3 * same["fit"].standard_error)
    assert (terms["early_stopping"].n, terms["early_stopping"].standard_error, terms["bound"].n) == (77, 0, 500)


def test_errors_are_those_seen_over_draws_also_where_fewer_paths_are_followed_to_their_limits() -> None:
    rng = np.random.default_rng(3)

    def drawn() -> Distance:
        fit, other = rng.chisquare(3, (2, 400))
        return terms_of(fit, other[:100], (fit + other)[:100])["bound"]  # two terms that rise and fall together

    found = [drawn() for _ in range(500)]
    seen = np.std([bound.value for bound in found], ddof=1)
    assert np.mean([bound.standard_error for bound in found]) == pytest.approx(seen, rel=0.1)
    assert found[0].n == 100


def w2(floor: float, floor_error: float, ratio: float, ratio_error: float) -> Measured:
    def number(name: str, value: float, error: float) -> Distance:
        return Distance(name=name, value=value, standard_error=error, n=50)

    return Measured(
        distance=number("w2", floor * ratio, 0.0),
        floor=number("w2_floor", floor, floor_error),
        ratio=number("w2_ratio", ratio, ratio_error),
    )


def test_the_excess_is_what_squares_leave_above_the_floor() -> None:
    found = excess(w2(3.0, 0.0, 5 / 3, 0.001))
    assert (found.name, found.n) == ("w2_excess", 50)
    assert found.value == pytest.approx(4)
    assert found.standard_error == pytest.approx(5 / 4 * 3 * 0.001, rel=1e-2)  # w2 times its error over the excess
    assert excess(w2(3.0, 0.001, 5 / 3, 0.0)).standard_error == pytest.approx(4 / 3 * 0.001, rel=1e-2)


def test_an_excess_of_nothing_has_an_error() -> None:
    below = excess(w2(3.0, 0.1, 0.9, 0.01))
    assert below.value == 0
    assert below.standard_error == pytest.approx(math.sqrt(2 * 3 * (0.19 * 0.1 + 3 * 0.9 * 0.01)))
    hardly = excess(w2(3.0, 0.0, 1.001, 0.002))
    assert hardly.standard_error == hardly.value > 0


def test_a_budget_gives_all_its_numbers() -> None:
    terms = terms_of(*np.ones((3, 4)))
    measured = excess(w2(1.0, 0.0, 1.0, 0.0))
    budget = ErrorBudget(terms=terms, measured=measured, law="", words={}, advice="")
    assert [found.name for found in budget.distances] == [*(f"budget.{name}" for name in terms), "w2_excess"]
