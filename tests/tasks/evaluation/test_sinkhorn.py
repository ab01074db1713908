"""The Sinkhorn divergence between its limits, W2 and the distance of the means."""

import math

import numpy as np
import pytest

from tasks.evaluation.sinkhorn import sinkhorn
from tasks.evaluation.wasserstein import wasserstein


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_it_is_zero_on_equal_samples_whatever_their_order() -> None:
    x = normal(0, 80, 3)
    # The square is off by some 1e-4 squared of the mean cost, 6 here: at the default tolerance the root is below 1e-3.
    assert sinkhorn(x, x) == pytest.approx(0, abs=1e-3)
    assert sinkhorn(x, x[::-1]) == pytest.approx(0, abs=1e-3)
    assert sinkhorn(np.ones((4, 2)), np.ones((7, 2))) == 0.0


def test_it_tends_to_w2_as_the_regularisation_falls() -> None:
    x, y = normal(0, 60, 2), normal(1, 60, 2) + 1
    exact = wasserstein(x, y)
    gaps = [abs(sinkhorn(x, y, regularisation=e) - exact) for e in (1.0, 0.1, 0.01, 0.001)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3 * exact


def test_it_tends_to_the_distance_of_the_means_as_the_regularisation_grows() -> None:
    x, y = normal(0, 60, 2), 2 * normal(1, 50, 2) + 1
    means = np.linalg.norm(x.mean(0) - y.mean(0))
    assert sinkhorn(x, y, regularisation=1e4) == pytest.approx(means, rel=1e-3)


def test_a_shift_moves_by_its_length_at_any_regularisation() -> None:
    # <P, C> grows by |v|^2 + 2 <v, mean gap>, whatever the plan, so the debiased divergence is |v|^2 exactly.
    x, shift = normal(0, 70, 3), np.array([2.0, 1.0, 2.0])
    for e in (0.05, 0.5, 5.0):
        assert sinkhorn(x, x + shift, regularisation=e, tolerance=1e-7) == pytest.approx(3.0, rel=1e-6)


def test_two_points_by_hand() -> None:
    # One point against two: every plan is the product, so OT_e(x, y) is the mean cost and OT_e(x, x) is 0. The cloud
    # {-1, 1} against itself is a 2 x 2 problem with diagonal mass p / 2: p / (1 - p) = exp(4 / e).
    x, y = np.array([0.0]), np.array([-1.0, 1.0])
    e = 0.7  # the mean cost is 1
    p = 1 / (1 + math.exp(-4 / e))
    within = 4 * (1 - p) + e * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert sinkhorn(x, y, regularisation=e, tolerance=1e-10) == pytest.approx(math.sqrt(1 - within / 2), rel=1e-8)


def test_it_is_symmetric_and_scales_with_the_points() -> None:
    x, y = normal(0, 40, 2), normal(1, 50, 2) + 0.5
    here = sinkhorn(x, y, tolerance=1e-8)
    assert sinkhorn(y, x, tolerance=1e-8) == pytest.approx(here, rel=1e-6)
    assert sinkhorn(100 * x, 100 * y, tolerance=1e-8) == pytest.approx(100 * here, rel=1e-6)


def test_a_tiny_regularisation_neither_overflows_nor_divides_by_zero() -> None:
    x, y = normal(0, 15, 2), normal(1, 15, 2) + 30  # exponents beyond 1e5
    assert sinkhorn(x, y, regularisation=1e-5, max_rounds=20_000) == pytest.approx(wasserstein(x, y), rel=1e-4)


def test_running_out_of_rounds_raises() -> None:
    with pytest.raises(RuntimeError, match="after 1 rounds"):
        sinkhorn(normal(0, 60, 2), normal(1, 60, 2), regularisation=1e-3, tolerance=1e-12, max_rounds=1)


@pytest.mark.parametrize("change", [{"regularisation": 0.0}, {"tolerance": -1.0}])
def test_arguments_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        sinkhorn(np.zeros((2, 1)), np.ones((2, 1)), **({"regularisation": 0.1, "tolerance": 1e-3} | change))  # type: ignore[arg-type]
