"""Solvers: exact factors and error constants of Gaussians, observed orders, and what holds for every step."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tasks.specs import SOLVER_KINDS
from tasks.transport.field import VelocityField
from tasks.transport.grid import time_grid
from tasks.transport.interpolant import Interpolant
from tasks.transport.solver import EVALUATIONS_PER_STEP, ORDERS, SOLVERS, solve
from tasks.transport.targets import Gaussian, GaussianMixture, OracleField

KINDS = ("linear", "foellmer", "trigonometric", "vp")
EXACT_ENDS = ("linear", "foellmer", "trigonometric")


def gaussian_field(kind: str, *, std: float, mean: float = 0.0) -> OracleField:
    law = Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([[std**2]], dtype=torch.float64))
    return OracleField(Interpolant(kind), GaussianMixture((1.0,), (law,)))


def line_field(kind: str) -> OracleField:
    parts = [
        Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([[std**2]], dtype=torch.float64))
        for mean, std in LINE
    ]
    return OracleField(Interpolant(kind), GaussianMixture((0.4, 0.6), tuple(parts)))


LINE = ((-1.0, 0.5), (1.2, 0.4))  # mean and standard deviation of each component


def line_flow(kind: str, stop: float, x0: Tensor) -> Tensor:
    """Where noise ends under :func:`line_field`: F_T^-1(Phi(x)), by bisection, because flows on a line are monotone."""
    c = Interpolant(kind).at(torch.tensor(stop, dtype=torch.float64))
    first, second = ((c.data * mean, (c.noise**2 + (c.data * std) ** 2).sqrt()) for mean, std in LINE)
    low, high = torch.full_like(x0, -10), torch.full_like(x0, 10)
    for _ in range(60):
        middle = (low + high) / 2
        cdf = sum(
            weight * torch.special.ndtr((middle - mean) / std) for weight, (mean, std) in ((0.4, first), (0.6, second))
        )
        is_below = cdf < torch.special.ndtr(x0)
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return low


def euler_end(kind: str, *, std: float, steps: int, mean: float = 0.0) -> float:
    """The end of the trajectory that starts at 1, with Euler's method to T = 1."""
    x0 = torch.ones(1, 1, dtype=torch.float64)
    grid = time_grid("uniform", steps=steps, stop=1.0)
    states = solve(gaussian_field(kind, std=std, mean=mean), x0, grid, solver="euler", interpolant=Interpolant(kind))
    return states[0, -1, 0].item()


# (alpha alpha' + sigma^2 beta beta') / (alpha^2 + sigma^2 beta^2), written out for each interpolant
RATES: dict[str, Callable[[float, float], float]] = {
    "linear": lambda t, variance: (variance * t - (1 - t)) / ((1 - t) ** 2 + variance * t**2),
    "foellmer": lambda t, variance: (variance - 1) * t / (1 - t**2 + variance * t**2),
    "trigonometric": lambda t, variance: (
        (math.pi / 4)
        * (variance - 1)
        * math.sin(math.pi * t)
        / (math.cos(math.pi * t / 2) ** 2 + variance * math.sin(math.pi * t / 2) ** 2)
    ),
}


def test_every_solver_of_the_specs_exists_and_says_its_cost() -> None:
    assert tuple(SOLVERS) == SOLVER_KINDS
    assert tuple(EVALUATIONS_PER_STEP) == SOLVER_KINDS


def test_euler_multiplies_the_first_state_by_the_known_factor() -> None:
    """The product prod_k (1 + c(t_k)/16) of N(0, 2^2) with the linear interpolant, by hand: 1.822732."""
    assert euler_end("linear", std=2.0, steps=16) == pytest.approx(1.822732, abs=5e-7)


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", EXACT_ENDS)
def test_the_euler_factor_of_a_gaussian_is_a_product(kind: str, std: float) -> None:
    factor = math.prod(1 + RATES[kind](k / 16, std**2) / 16 for k in range(16))
    assert euler_end(kind, std=std, steps=16) == pytest.approx(factor, rel=1e-13)


def test_euler_carries_the_mean_exactly_where_the_interpolant_is_linear() -> None:
    shifted = euler_end("linear", std=2.0, steps=16, mean=3.0)
    assert shifted - 3.0 == pytest.approx(euler_end("linear", std=2.0, steps=16), rel=1e-12)


def euler_constant(kind: str, std: float) -> float:
    """E of sigma - A_K = E/K + O(1/K^2): (sigma/2) times the integral of (sqrt C)''/sqrt C, in closed form."""
    k = std**2 - 1
    match kind:
        case "linear":
            return std / 2 * (math.pi / 4 * (std + 1 / std) + 1)
        case "trigonometric":
            return std / 2 * (math.pi**2 / 8) * (std + 1 / std - 2)
    root = math.sqrt(abs(k))
    bend = math.atan(root) if k > 0 else -math.atanh(root)
    return std / 2 * (k / (2 * std**2) + root / 2 * bend)


@pytest.mark.parametrize("std", [0.6, 2.0])
@pytest.mark.parametrize("kind", EXACT_ENDS)
def test_the_euler_error_of_a_gaussian_has_the_known_constant(kind: str, std: float) -> None:
    coarse, fine = (steps * (std - euler_end(kind, std=std, steps=steps)) for steps in (100, 200))
    # extrapolated to 1/K = 0; what is left is of order 1/K^2
    assert 2 * fine - coarse == pytest.approx(euler_constant(kind, std), rel=2e-3)


@pytest.mark.parametrize("kind", ["foellmer", "trigonometric"])
def test_a_standardised_gaussian_is_solved_exactly_by_variance_preserving_paths(kind: str) -> None:
    assert euler_end(kind, std=1.0, steps=3) == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("kind", EXACT_ENDS)
@pytest.mark.parametrize(("solver", "order", "stop"), [("euler", 1, 1.0), ("exponential", 1, 0.9), ("heun", 2, 1.0)])
def test_a_solver_converges_at_its_order(solver: str, order: int, stop: float, kind: str) -> None:
    """The exponential one is stopped early: at t = 1 the singular W of Foellmer costs it a factor log K."""
    x0 = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    exact = line_flow(kind, stop, x0)
    errors = []
    for steps in (40, 80, 160):
        grid = time_grid("uniform", steps=steps, stop=stop)
        end = solve(line_field(kind), x0, grid, solver=solver, interpolant=Interpolant(kind))[:, -1]
        errors.append((end - exact).abs().mean().item())
    orders = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
    # the next term of the error expansion shifts an observed order by a share that halves with the step
    assert orders[1] == pytest.approx(order, abs=0.03 * order)
    assert errors[2] < 0.01**order
    assert ORDERS[solver] == order


@pytest.mark.parametrize("kind", ["linear", "foellmer"])
def test_heun_beats_euler_at_the_same_number_of_evaluations(kind: str) -> None:
    x0 = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    found = {}
    for solver in ("euler", "heun"):
        grid = time_grid("uniform", steps=64 // EVALUATIONS_PER_STEP[solver], stop=1.0)
        end = solve(line_field(kind), x0, grid, solver=solver, interpolant=Interpolant(kind))[:, -1]
        found[solver] = (end - line_flow(kind, 1.0, x0)).abs().mean().item()
    assert found["heun"] < found["euler"] / 4


def test_exponential_is_euler_for_the_linear_interpolant() -> None:
    x0 = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    grid = time_grid("karras", steps=20, stop=1.0, rho=2.0)
    euler, exponential = (
        solve(line_field("linear"), x0, grid, solver=solver, interpolant=Interpolant("linear"))
        for solver in ("euler", "exponential")
    )
    torch.testing.assert_close(exponential, euler, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exponential_step_to_the_end_gives_the_denoiser(kind: str) -> None:
    """At alpha_s = 0 the step is D(t, x): nothing of the noise is left."""
    law, x0 = line_field(kind), torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    grid = time_grid("uniform", steps=5, stop=1.0)
    states = solve(law, x0, grid, solver="exponential", interpolant=Interpolant(kind))
    torch.testing.assert_close(states[:, -1], law.denoiser(grid[-2], states[:, -2]), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exponential_step_is_exact_where_the_denoiser_is_constant(kind: str) -> None:
    """A single point as target: D is that point, and x_s = alpha_s z + beta_s m after steps of any length."""
    point, x0 = gaussian_field(kind, std=0.0, mean=3.0), torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    grid = torch.tensor([0.0, 0.5, 0.6, 1.0], dtype=torch.float64)
    states = solve(point, x0, grid, solver="exponential", interpolant=Interpolant(kind))[..., 0]
    c = Interpolant(kind).at(grid)
    noise = (x0 - c.data[0] * 3.0) / c.noise[0]
    torch.testing.assert_close(states, noise * c.noise + 3.0 * c.data, rtol=1e-13, atol=1e-13)


@dataclass
class CubicField:
    """dx/dt = 3 t^2 + x / 2, and a record of the times asked for."""

    times: list[float] = field(default_factory=list)

    def velocity(self, t: Tensor, x_t: Tensor) -> Tensor:
        self.times.append(t.item())
        return (3 * t**2 + x_t / 2).to(x_t.dtype)

    def denoiser(self, t: Tensor, x_t: Tensor) -> Tensor:
        self.times.append(t.item())
        return x_t


@pytest.mark.parametrize("solver", SOLVER_KINDS)
def test_a_solver_evaluates_as_often_as_it_says(solver: str) -> None:
    counted = CubicField()
    grid = time_grid("uniform", steps=7, stop=0.9)
    solve(counted, torch.zeros(2, 3), grid, solver=solver, interpolant=Interpolant("linear"))
    assert len(counted.times) == 7 * EVALUATIONS_PER_STEP[solver]


@pytest.mark.parametrize("solver", ["euler", "exponential"])
def test_a_first_order_solver_never_looks_at_the_last_time(solver: str) -> None:
    counted = CubicField()
    grid = time_grid("uniform", steps=4, stop=1.0)
    solve(counted, torch.zeros(2, 3), grid, solver=solver, interpolant=Interpolant("linear"))
    assert counted.times == [0.0, 0.25, 0.5, 0.75]


def test_heun_is_the_average_of_both_slopes() -> None:
    """One step by hand: from x = 1 with t = 0, s = 1/2, slope 1/2, predictor 5/4, slope there 3/4 + 5/8."""
    grid = torch.tensor([0.0, 0.5], dtype=torch.float64)
    x0 = torch.ones(1, 1, dtype=torch.float64)
    states = solve(CubicField(), x0, grid, solver="heun", interpolant=Interpolant("linear"))
    assert states[0, 1, 0].item() == 1 + (0.5 + 0.75 + 0.625) / 4


@pytest.mark.parametrize("solver", SOLVER_KINDS)
def test_every_state_is_kept_and_the_first_is_the_noise(solver: str) -> None:
    x0 = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    grid, linear = time_grid("uniform", steps=6, stop=0.9), Interpolant("linear")
    states = solve(line_field("linear"), x0, grid, solver=solver, interpolant=linear)
    assert states.shape == (9, 7, 1)
    assert torch.equal(states[:, 0], x0)
    for k in range(1, 6):
        shorter = solve(line_field("linear"), x0, grid[: k + 1], solver=solver, interpolant=linear)
        assert torch.equal(shorter, states[:, : k + 1])
        rest = solve(line_field("linear"), states[:, k], grid[k:], solver=solver, interpolant=linear)
        assert torch.equal(rest, states[:, k:])


@pytest.mark.parametrize("solver", SOLVER_KINDS)
def test_states_keep_shape_and_type_of_the_noise_without_gradients(solver: str) -> None:
    x0 = torch.ones(3, 2, 2).requires_grad_()
    grid = time_grid("uniform", steps=4, stop=0.9)
    states = solve(CubicField(), x0, grid, solver=solver, interpolant=Interpolant("foellmer"))
    assert states.shape == (3, 5, 2, 2)
    assert states.dtype == torch.float32
    assert not states.requires_grad


def test_a_buffer_is_filled_and_given_back() -> None:
    grid = time_grid("uniform", steps=4, stop=0.9)
    buffer = torch.full((3, 5, 2), math.nan)
    law: VelocityField = CubicField()
    found = solve(law, torch.ones(3, 2), grid, solver="euler", interpolant=Interpolant("linear"), out=buffer)
    assert found is buffer
    fresh = solve(law, torch.ones(3, 2), grid, solver="euler", interpolant=Interpolant("linear"))
    assert torch.equal(buffer, fresh)


def test_an_unknown_solver_is_refused_by_name() -> None:
    grid = time_grid("uniform", steps=4, stop=0.9)
    with pytest.raises(ValueError, match=r"trajectories\.solver must be one of euler, exponential, heun, got 'rk4'"):
        solve(CubicField(), torch.ones(3, 2), grid, solver="rk4", interpolant=Interpolant("linear"))


def test_states_that_are_not_kept_are_passed_all_the_same() -> None:
    law = CubicField()
    grid = time_grid("uniform", steps=6, stop=0.9)
    x0 = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = solve(law, x0, grid, solver="heun", interpolant=Interpolant("linear"))
    some = solve(law, x0, grid, solver="heun", interpolant=Interpolant("linear"), kept=(0, 2, 5, 6))
    assert torch.equal(some, whole[:, [0, 2, 5, 6]])
