"""Time grids: exact ends, strict order, the published spacing."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.specs import GRID_KINDS
from tasks.transport.grid import GRIDS, halved, time_grid


def test_the_specs_and_the_grids_know_the_same_kinds() -> None:
    assert GRIDS == GRID_KINDS


@given(st.sampled_from(GRIDS), st.integers(1, 300), st.floats(0.01, 1), st.floats(0.5, 7))
def test_a_grid_rises_from_zero_to_its_stop_exactly(kind: str, steps: int, stop: float, rho: float) -> None:
    # below the spacing of numbers at 1 float64 cannot tell the last times apart
    assume(kind == "uniform" or steps**-rho > 1e-15)
    grid = time_grid(kind, steps=steps, stop=stop, rho=rho)
    assert grid.dtype == torch.float64
    assert grid.shape == (steps + 1,)
    assert grid[0].item() == 0.0
    assert grid[-1].item() == stop
    assert (grid.diff() > 0).all()


def test_the_uniform_grid_has_equal_steps() -> None:
    assert time_grid("uniform", steps=4, stop=0.5).tolist() == [0.0, 0.125, 0.25, 0.375, 0.5]


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_the_karras_grid_is_even_in_the_root_of_the_remaining_time(rho: float) -> None:
    roots = (1 - time_grid("karras", steps=20, stop=0.999, rho=rho)) ** (1 / rho)
    torch.testing.assert_close(roots.diff(), torch.full_like(roots[1:], (0.001 ** (1 / rho) - 1) / 20))


def test_the_karras_grid_with_exponent_one_is_uniform() -> None:
    karras = time_grid("karras", steps=32, stop=0.999, rho=1.0)
    torch.testing.assert_close(karras, time_grid("uniform", steps=32, stop=0.999), rtol=0, atol=1e-15)


def test_a_larger_exponent_shortens_the_steps_toward_the_data() -> None:
    steps = time_grid("karras", steps=16, stop=0.99, rho=7.0).diff()
    assert (steps.diff() < 0).all()
    assert steps[-1] < time_grid("karras", steps=16, stop=0.99, rho=3.0).diff()[-1]


@pytest.mark.parametrize("kind", GRIDS)
def test_halving_keeps_every_time_and_doubles_the_steps(kind: str) -> None:
    grid = time_grid(kind, steps=8, stop=0.9)
    twice = halved(grid)
    assert torch.equal(twice[::2], grid)
    assert torch.allclose(twice.diff(), grid.diff().repeat_interleave(2) / 2)


def test_times_that_would_coincide_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"trajectories\.rho must leave the times distinct, got 7 with 1000 steps to 1"
    ):
        time_grid("karras", steps=1000, stop=1.0)


@pytest.mark.parametrize(
    ("kind", "steps", "stop", "rho", "message"),
    [
        ("uniform", 0, 0.5, 7.0, r"trajectories\.steps must be at least 1, got 0"),
        ("uniform", 4, 0.0, 7.0, r"trajectories\.stop must be in \(0, 1\], got 0"),
        ("uniform", 4, 1.5, 7.0, r"trajectories\.stop must be in \(0, 1\], got 1.5"),
        ("karras", 4, 0.5, 0.0, r"trajectories\.rho must be positive, got 0"),
        ("cosine", 4, 0.5, 7.0, r"trajectories\.grid must be one of uniform, karras, got 'cosine'"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(
    kind: str, steps: int, stop: float, rho: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        time_grid(kind, steps=steps, stop=stop, rho=rho)
