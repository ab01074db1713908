"""Shares of classes: by hand, the floor in closed form against all outcomes, the error against many draws."""

import math
from itertools import product

import numpy as np
import pytest

from tasks.evaluation.classes import balance_floor, class_agreement, class_balance


def test_the_total_variation_is_what_would_have_to_change_its_class() -> None:
    label = np.array([0, 0, 0, 1])  # shares 3/4, 1/4, 0 instead of 1/2, 1/4, 1/4
    found = class_balance(label, np.array([0.5, 0.25, 0.25]))
    assert found.distance.value == pytest.approx(0.25)
    assert (found.distance.name, found.floor.name) == ("class_balance", "class_balance_floor")
    assert found.ratio.value == pytest.approx(0.25 / found.floor.value)
    assert (found.distance.n, found.floor.standard_error) == (4, 0.0)
    # signs +, 0, -: the variance of a draw's share of the distance, half of its sign, is 3/4 - (3/4)^2 over 4
    assert found.distance.standard_error == pytest.approx(math.sqrt((0.75 - 0.75**2) / 4 / 4))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.2, 0.7, 0.1), (0.25, 0.75, 0.0), (1 / 3, 1 / 3, 1 / 3)])
def test_the_floor_is_the_mean_over_all_outcomes(shares: tuple[float, ...]) -> None:
    n, q = 5, np.array(shares)
    mean = 0.0
    for draws in product(range(len(q)), repeat=n):
        found = np.bincount(draws, minlength=len(q)) / n
        mean += math.prod(q[list(draws)]) * abs(found - q).sum() / 2
    assert balance_floor(q, n=n) == pytest.approx(mean, rel=1e-12)


def test_the_error_of_a_distance_off_the_floor_is_its_spread_over_draws() -> None:
    rng, shares, actual = np.random.default_rng(0), np.array([0.5, 0.3, 0.2]), np.array([0.7, 0.2, 0.1])
    found = [class_balance(rng.choice(3, 400, p=actual), shares).distance for _ in range(400)]
    spread = np.std([each.value for each in found])
    # the deviation of 400 draws is known to 1 / sqrt(800) of itself
    assert np.mean([each.standard_error for each in found]) == pytest.approx(spread, rel=4 / math.sqrt(800))


def test_one_class_and_labels_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        class_balance(np.array([0, 0]), np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"in \[0, 2\), got 0 to 2"):
        class_balance(np.array([0, 2]), np.array([0.5, 0.5]))


def test_agreement_is_a_share_with_a_binomial_error() -> None:
    found = class_agreement(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]))
    assert (found.name, found.value, found.n) == ("class_agreement", 0.75, 4)
    assert found.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
