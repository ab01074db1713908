"""Losses: floors in closed form by exact quadrature, unbiased batches, and zero where the exact map is."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tasks.transport.grid import time_grid
from tasks.transport.interpolant import Interpolant, expand, velocity_from_denoiser
from tasks.transport.losses import (
    characteristic_fitting_loss,
    denoiser_matching_loss,
    pseudo_huber,
    semigroup_loss,
    squared_error,
    velocity_matching_loss,
)
from tasks.transport.solver import solve
from tasks.transport.targets import Gaussian, GaussianMixture, OracleField

KINDS = ("linear", "foellmer", "trigonometric", "vp")
MEAN = 0.7


def gaussian_field(kind: str, *, std: float) -> OracleField:
    law = Gaussian(torch.tensor([MEAN], dtype=torch.float64), torch.tensor([[std**2]], dtype=torch.float64))
    return OracleField(Interpolant(kind), GaussianMixture((1.0,), (law,)))


def expectation(loss: Callable[[Tensor, Tensor], Tensor], *, std: float) -> float:
    """E loss(Z, X) over Z of N(0, 1) and X of N(MEAN, std^2); exact, because the losses here are quadratic in both."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    pairs = torch.tensor(list(product(nodes, nodes)), dtype=torch.float64)
    mass = torch.tensor([a * b for a, b in product(weights, weights)], dtype=torch.float64) / (2 * math.pi)
    return float((mass * loss(pairs[:, :1], MEAN + std * pairs[:, 1:])).sum())


def matching_floor(kind: str, t: float, *, std: float, error: float = 0.0) -> float:
    """The population loss at one time of the exact velocity plus a constant error."""
    field, times = gaussian_field(kind, std=std), torch.full((9,), t, dtype=torch.float64)

    def loss(z: Tensor, x: Tensor) -> Tensor:
        def velocity(t: Tensor, x_t: Tensor) -> Tensor:
            return field.velocity(t, x_t) + error

        return velocity_matching_loss(velocity, interpolant=Interpolant(kind), t=times, x0=z, x1=x)

    return expectation(loss, std=std)


def test_squared_errors_are_summed_over_the_dimensions_of_each_row() -> None:
    a, b = torch.zeros(2, 3, 2), torch.tensor([1.0, 2.0])[:, None, None].expand(2, 3, 2)
    assert squared_error(a, b).tolist() == [6.0, 24.0]


HUBER = 0.00054 * math.sqrt(6)  # c of states of six coordinates


def huber_of(size: float, *, dtype: torch.dtype = torch.float64) -> float:
    """The pseudo-Huber error of one state that is off by so much in all."""
    target = torch.linspace(-3, 3, 6, dtype=dtype).reshape(1, 3, 2)
    return float(pseudo_huber(target + size / math.sqrt(6), target))


def test_the_pseudo_huber_error_is_quadratic_near_zero_and_the_norm_far_away() -> None:
    assert huber_of(0.0) == 0.0
    assert huber_of(1e-3 * HUBER) == pytest.approx((1e-3 * HUBER) ** 2 / (2 * HUBER), rel=1e-6)
    assert huber_of(1e3) == pytest.approx(1e3 - HUBER, rel=1e-9)
    for size in (0.1 * HUBER, HUBER, 0.3):
        assert huber_of(size) == pytest.approx(math.hypot(size, HUBER) - HUBER, rel=1e-9)


def test_the_pseudo_huber_error_loses_no_digits_to_cancellation() -> None:
    x = torch.zeros(1, 6)
    off = x + 1e-6  # ||e|| = 2.4e-6 against c = 1.3e-3: their roots differ in the sixth digit
    assert float(pseudo_huber(off, x)) == pytest.approx(6e-12 / (2 * HUBER), rel=1e-5)


def test_the_slope_of_the_pseudo_huber_error_is_bounded_and_vanishes_at_zero() -> None:
    """The gradient is e / sqrt(||e||^2 + c^2), of norm below 1; at e = 0 it is 0 and not NaN."""
    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    scale = torch.tensor([0.0, 1e-4, 1e-2, 1.0, 1e4], dtype=torch.float64)[:, None]
    error = scale * x
    found = torch.autograd.grad(pseudo_huber(error, torch.zeros_like(x)).sum(), error)[0]
    torch.testing.assert_close(found, error / (error.square().sum(1, keepdim=True) + HUBER**2).sqrt())
    assert (found.norm(dim=1) <= 1).all()


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_velocity_matching_of_a_gaussian_has_the_known_floor(kind: str, std: float) -> None:
    for t in (0.0, 0.3, 0.7, 0.95):
        c = Interpolant(kind).at(torch.tensor(t, dtype=torch.float64))
        floor = std**2 * c.wronskian**2 / (c.noise**2 + std**2 * c.data**2)
        assert matching_floor(kind, t, std=std) == pytest.approx(floor.item(), rel=1e-10)


@pytest.mark.parametrize(
    ("kind", "std", "stop", "integral"),
    [
        ("linear", 0.5, 1.0, 0.5 * math.pi / 2),
        ("linear", 2.0, 1.0, 2.0 * math.pi / 2),
        ("trigonometric", 0.5, 1.0, 0.5 * math.pi**2 / 4),
        ("trigonometric", 2.0, 1.0, 2.0 * math.pi**2 / 4),
        ("foellmer", 1.0, 0.9, math.atanh(0.9)),  # diverges at T = 1
    ],
)
def test_the_floor_over_all_times_is_the_closed_form(kind: str, std: float, stop: float, integral: float) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(40)  # exponentially accurate: the floors are smooth on [0, T]
    values = [matching_floor(kind, stop * (node + 1) / 2, std=std) for node in nodes]
    assert stop / 2 * float(np.dot(weights, values)) == pytest.approx(integral, rel=1e-9)


@given(st.floats(0, 0.99), st.floats(-2, 2))
def test_an_error_of_the_velocity_adds_its_square_to_the_floor(t: float, error: float) -> None:
    floor = matching_floor("linear", t, std=1.5)
    assert matching_floor("linear", t, std=1.5, error=error) == pytest.approx(floor + error**2, rel=1e-10)


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_velocity_matching_is_finite_up_to_the_data_where_the_rates_are(kind: str) -> None:
    assert math.isfinite(matching_floor(kind, 1.0, std=2.0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_matching_losses_differ_by_a_known_weight(kind: str) -> None:
    """v = (alpha'/alpha) x + (W/alpha) D, so a velocity's error is W/alpha times the denoiser's."""
    rng = torch.Generator().manual_seed(1)
    x0, x1 = (torch.randn(6, 2, 2, dtype=torch.float64, generator=rng) for _ in range(2))
    t = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    interpolant, data_std = Interpolant(kind), 0.8

    def denoiser(t: Tensor, x_t: Tensor) -> Tensor:
        return x_t.sin() + expand(t, x_t)

    def velocity(t: Tensor, x_t: Tensor) -> Tensor:
        return velocity_from_denoiser(interpolant, t, x_t, denoiser(t, x_t))

    c = interpolant.at(t)
    c_out = c.noise * data_std / (c.noise**2 + c.data**2 * data_std**2).sqrt()
    of_velocity = velocity_matching_loss(velocity, interpolant=interpolant, t=t, x0=x0, x1=x1)
    of_denoiser = denoiser_matching_loss(denoiser, interpolant=interpolant, t=t, x0=x0, x1=x1, data_std=data_std)
    assert of_denoiser.shape == (6,)
    torch.testing.assert_close(of_velocity, (c.wronskian * c_out / c.noise) ** 2 * of_denoiser, rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_raw_target_of_denoiser_matching_has_unit_scale_at_all_times(kind: str) -> None:
    """With the network at 0 the denoiser is c_skip x and the loss is E target^2 = 1 for centred data of that scale."""
    std = 1.7
    for t in (0.01, 0.4, 0.9, 0.999):
        times = torch.full((9,), t, dtype=torch.float64)

        def skip(t: Tensor, x_t: Tensor) -> Tensor:
            c = Interpolant(kind).at(expand(t, x_t))
            return c.data * std**2 / (c.noise**2 + std**2 * c.data**2) * x_t

        def loss(z: Tensor, x: Tensor, times: Tensor = times) -> Tensor:
            return denoiser_matching_loss(skip, interpolant=Interpolant(kind), t=times, x0=z, x1=x - MEAN, data_std=std)

        assert expectation(loss, std=std) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_at_the_data_end_counts_nothing_and_spoils_no_gradient(kind: str) -> None:
    weight = torch.ones((), requires_grad=True)

    def denoiser(t: Tensor, x_t: Tensor) -> Tensor:
        return weight * x_t

    loss = denoiser_matching_loss(
        denoiser,
        interpolant=Interpolant(kind),
        t=torch.tensor([1.0, 0.5]),
        x0=torch.ones(2, 3),
        x1=torch.full((2, 3), 2.0),
        data_std=1.0,
    )
    assert loss[0].item() == 0.0
    assert loss[1].item() > 0
    assert torch.isfinite(torch.autograd.grad(loss.sum(), weight)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_map_fits_exact_characteristics_and_composes(kind: str) -> None:
    field, z = gaussian_field(kind, std=2.0), torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    t, r, s = (torch.full((5,), value, dtype=torch.float64) for value in (0.1, 0.5, 1.0))
    x_t = field.flow_map(torch.zeros_like(t), t, z)
    x_s = field.flow_map(torch.zeros_like(t), s, z)
    assert characteristic_fitting_loss(field.flow_map, t=t, s=s, x_t=x_t, x_s=x_s).max().item() < 1e-24
    assert semigroup_loss(field.flow_map, t=t, r=r, s=s, x_t=x_t, x_s=x_s).max().item() < 1e-24
    off = characteristic_fitting_loss(lambda t, s, x: field.flow_map(t, s, x) + 0.5, t=t, s=s, x_t=x_t, x_s=x_s)
    torch.testing.assert_close(off, torch.full_like(off, 0.25))


def test_the_losses_of_pairs_take_the_error_that_they_are_given() -> None:
    """Doubling x, from 1 to 5 over two legs: |2 - 5| = 3 at once, |4 - 5| = 1 by way of r."""
    t, r, s = torch.tensor([0.0]), torch.tensor([0.5]), torch.tensor([1.0])
    x_t, x_s = torch.ones(1, 1), torch.full((1, 1), 5.0)
    pair = {"t": t, "s": s, "x_t": x_t, "x_s": x_s}

    def size(prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs().sum(1)

    assert characteristic_fitting_loss(lambda t, s, x: 2 * x, **pair, error=size).tolist() == [3.0]
    assert semigroup_loss(lambda t, s, x: 2 * x, r=r, **pair, error=size).tolist() == [1.0]


def test_the_denoiser_on_the_diagonal_minimises_its_loss() -> None:
    """Among a D + b, at any time, the derivative of the exact expectation vanishes at a = 1, b = 0 and nowhere near."""
    field, t = gaussian_field("trigonometric", std=1.6), torch.full((9,), 0.4, dtype=torch.float64)

    def at(a: float, b: float) -> float:
        def loss(z: Tensor, x: Tensor) -> Tensor:
            def denoiser(t: Tensor, x_t: Tensor) -> Tensor:
                return a * field.denoiser(t, x_t) + b

            return denoiser_matching_loss(
                denoiser, interpolant=Interpolant("trigonometric"), t=t, x0=z, x1=x, data_std=1.6
            )

        return expectation(loss, std=1.6)

    h = 1e-4
    assert at(1 + h, 0) == pytest.approx(at(1 - h, 0), abs=1e-10)
    assert at(1, h) == pytest.approx(at(1, -h), abs=1e-10)
    assert at(1, 0) < min(at(0.9, 0), at(1.1, 0), at(1, 0.1), at(1, -0.1))


def test_a_step_with_a_frozen_denoiser_is_no_semigroup() -> None:
    field = gaussian_field("linear", std=2.0)

    def frozen(t: Tensor, s: Tensor, x: Tensor) -> Tensor:
        return x + expand(s - t, x) * field.velocity(t, x)

    t, r, s = (torch.full((5,), value, dtype=torch.float64) for value in (0.0, 0.5, 1.0))
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    assert semigroup_loss(frozen, t=t, r=r, s=s, x_t=x, x_s=frozen(t, s, x)).mean().item() > 0.01


def test_the_semigroup_loss_follows_the_path_by_hand() -> None:
    """g(t, s, x) = x + s - t + 1 misses by one a step, hence by two over two steps."""
    t, r, s = torch.tensor([0.0]), torch.tensor([0.25]), torch.tensor([1.0])
    x_t, x_s = torch.tensor([[3.0]]), torch.tensor([[4.0]])
    found = semigroup_loss(lambda t, s, x: x + expand(s - t, x) + 1, t=t, r=r, s=s, x_t=x_t, x_s=x_s)
    assert found.tolist() == [4.0]


def test_the_first_leg_of_the_semigroup_loss_carries_no_gradient() -> None:
    """g(t, s, x) = w x at x = 1: (w sg[w] - 1)^2 has the slope 2 (w^2 - 1) w, half of what both legs would give."""
    weight = torch.tensor(2.0, requires_grad=True)
    t, r, s = torch.tensor([0.0]), torch.tensor([0.5]), torch.tensor([1.0])
    one = torch.ones(1, 1)
    loss = semigroup_loss(lambda t, s, x: weight * x, t=t, r=r, s=s, x_t=one, x_s=one)
    assert torch.autograd.grad(loss.sum(), weight)[0].item() == 2 * (2.0**2 - 1) * 2.0


def wrong_map(t: Tensor, s: Tensor, x: Tensor) -> Tensor:
    """A map that violates everything, g(t, t, x) = x too, so that each term of the risk counts."""
    return x * (1 + expand(t, x)) - expand(s, x).cos()


def test_sorted_uniform_pairs_need_no_weights_to_estimate_the_risk() -> None:
    """All K^2 equally likely index pairs, sorted, average to the weighted double sum of the paper (eq. 2.11)."""
    rows, steps = 4, 6
    grid = time_grid("uniform", steps=steps, stop=1.0)
    z = torch.linspace(-2, 2, rows, dtype=torch.float64)[:, None]
    field = gaussian_field("linear", std=2.0)
    states = solve(field, z, grid, solver="euler", interpolant=Interpolant("linear"))

    def losses(k: int, low: int) -> Tensor:
        t, s = (grid[index].expand(rows) for index in (k, low))
        return characteristic_fitting_loss(wrong_map, t=t, s=s, x_t=states[:, k], x_s=states[:, low])

    drawn = [losses(min(pair), max(pair)) for pair in product(range(steps), repeat=2)]
    total = torch.zeros((), dtype=torch.float64)
    for k in range(steps):
        for i in range(rows):
            x, t = states[i, k], grid[k]
            total += 0.5 * ((x - (x * (1 + t) - t.cos())) ** 2).sum()
            for later in range(k + 1, steps):
                total += ((states[i, later] - (x * (1 + t) - grid[later].cos())) ** 2).sum()
    torch.testing.assert_close(torch.stack(drawn).mean(), 2 / (rows * steps**2) * total, rtol=1e-12, atol=0)
