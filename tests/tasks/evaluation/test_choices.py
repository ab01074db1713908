"""Ways of storing beside each other: changes in known units, and advice that follows from the numbers."""

import numpy as np
import pytest

from tasks.evaluation.choices import StorageRow, advise, coupled_distance, relative_change, spread
from tasks.evaluation.wasserstein import wasserstein


def row(
    precision: str, codec: str = "zstd", save: str = "all", *, size: float, error: float | None = 0.0
) -> StorageRow:
    return StorageRow(
        precision=precision,
        codec=codec,
        save=save,
        bytes=size,
        encode=1.0,
        decode=1.0,
        error=error,
        w2_change=error,
        w2_bound=error,
        is_used=False,
    )


ROWS = [
    row("float32", "none", size=1000),
    row("float32", size=900),
    row("round-8", size=400, error=2e-3),
    row("float16", size=450, error=3e-4),
    row("round-1", size=100, error=None),
    row("float32", "none", "endpoints", size=60),
    row("float16", "none", "endpoints", size=30, error=3e-4),
]


def test_a_shift_is_measured_in_spreads_and_whatever_the_dimension() -> None:
    for dim in ((1,), (5,), (2, 3, 4)):
        exact = 3.0 * np.random.default_rng(0).standard_normal((4000, *dim))
        assert spread(exact) == pytest.approx(3.0, rel=0.03)
        assert relative_change(exact + 0.3, exact) == pytest.approx(0.3 / spread(exact))


def test_the_spread_is_about_the_mean_of_each_coordinate() -> None:
    ends = np.array([[0.0, 100.0], [2.0, 104.0]])
    assert spread(ends) == pytest.approx(((1 + 4) / 2) ** 0.5)


def test_no_distance_to_a_third_law_moves_by_more_than_the_coupled_one() -> None:
    rng = np.random.default_rng(1)
    x, other = rng.standard_normal((40, 3)), rng.standard_normal((50, 3))
    y = x + 0.1 * rng.standard_normal((40, 3))
    assert coupled_distance(x, y) == pytest.approx(np.sqrt(np.square(x - y).sum(1).mean()))
    assert abs(wasserstein(x, other) - wasserstein(y, other)) <= coupled_distance(x, y)


@pytest.mark.parametrize(
    ("solver_error", "expected"),
    [
        (
            0.01,
            "float16 with codec zstd keeps all states in 450 bytes and moves end states by 3.0e-04, below a tenth of "
            "the solver's 1.0e-02; where the generator need only jump from 0 to T, endpoints take 30.",
        ),
        (0.1, "round-8 with codec zstd keeps all states in 400 bytes and moves end states by 2.0e-03, below a tenth"),
        (None, "float16 with codec zstd keeps all states in 450 bytes and moves end states by 3.0e-04, below a thou"),
        (
            0.0,
            "float32 with codec zstd keeps all states in 900 bytes and loses nothing; where the generator need only "
            "jump from 0 to T, endpoints take 60.",
        ),
    ],
)
def test_the_fewest_bytes_are_advised_whose_loss_is_small_beside_the_solvers(
    solver_error: float | None, expected: str
) -> None:
    assert advise(ROWS, solver_error=solver_error).startswith(expected)


def test_without_endpoints_nothing_is_said_of_them() -> None:
    assert advise(ROWS[:2], solver_error=None) == (
        "float32 with codec zstd keeps all states in 900 bytes and loses nothing."
    )
