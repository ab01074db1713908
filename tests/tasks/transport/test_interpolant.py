"""Interpolants: closed forms, derivatives, what stays finite at t = 1, and the conversions against an exact law."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tasks.specs import INTERPOLANT_KINDS
from tasks.transport.interpolant import (
    INTERPOLANTS,
    Interpolant,
    denoiser_from_score,
    denoiser_from_velocity,
    expand,
    interpolate,
    score_from_denoiser,
    velocity_from_denoiser,
    velocity_from_score,
)
from tasks.transport.targets import Gaussian, GaussianMixture, OracleField

KINDS = ("linear", "foellmer", "trigonometric", "vp")
EXACT_ENDS = ("linear", "foellmer", "trigonometric")
VARIANCE_PRESERVING = ("foellmer", "trigonometric", "vp")
EPS = torch.finfo(torch.float64).eps


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def inner_times(count: int = 41) -> Tensor:
    return torch.linspace(0.01, 0.99, count, dtype=torch.float64)


def skewed_mixture() -> GaussianMixture:
    first = Gaussian(float64(1.0, -2.0), torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64))
    second = Gaussian(float64(-1.5, 0.5), torch.tensor([[1.2, -0.4], [-0.4, 0.4]], dtype=torch.float64))
    return GaussianMixture((1.0, 2.0), (first, second))


def points(rows: int) -> Tensor:
    return 2 * torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_the_specs_and_the_formulas_know_the_same_kinds() -> None:
    assert tuple(INTERPOLANTS) == INTERPOLANT_KINDS == KINDS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", EXACT_ENDS)
def test_time_zero_is_noise_and_time_one_is_data_exactly(kind: str, dtype: torch.dtype) -> None:
    c = Interpolant(kind).at(torch.tensor([0.0, 1.0], dtype=dtype))
    assert c.noise.tolist() == [1.0, 0.0]
    assert c.data.tolist() == [0.0, 1.0]
    x0, x1 = torch.full((2, 3), 5.0, dtype=dtype), torch.full((2, 3), -7.0, dtype=dtype)
    x = interpolate(Interpolant(kind), torch.tensor([0.0, 1.0], dtype=dtype), x0, x1)
    assert x[0].tolist() == [5.0] * 3
    assert x[1].tolist() == [-7.0] * 3


def test_the_vp_interpolant_ends_at_data_and_starts_near_noise_only() -> None:
    c = Interpolant("vp").at(float64(0.0, 1.0))
    # beta_0 = exp(-T(1)/2) with T(1) = 19.9/2 + 0.1, the integral of beta from 0.1 to 20
    assert c.data[0].item() == pytest.approx(math.exp(-10.05 / 2), rel=1e-14)
    assert c.noise[0].item() == pytest.approx(math.sqrt(1 - math.exp(-10.05)), rel=1e-14)
    assert (c.noise[1].item(), c.data[1].item()) == (0.0, 1.0)


@given(st.floats(0, 1))
def test_the_coefficients_are_the_published_formulas(t: float) -> None:
    linear, foellmer, trigonometric, vp = (Interpolant(kind).at(float64(t)) for kind in KINDS)
    expected = [
        (linear, 1 - t, t),
        (foellmer, math.sqrt(1 - t * t), t),
        (trigonometric, math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)),
    ]
    exponent = (1 - t) ** 2 * 19.9 / 2 + (1 - t) * 0.1
    expected.append((vp, math.sqrt(-math.expm1(-exponent)), math.exp(-exponent / 2)))
    for c, alpha, beta in expected:
        # sqrt(1 - t^2) computed the obvious way loses half the digits at t = 1, hence the absolute part
        assert c.noise.item() == pytest.approx(alpha, rel=1e-12, abs=2e-8 if c is foellmer else 1e-15)
        assert c.data.item() == pytest.approx(beta, rel=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rates_are_the_derivatives_of_the_coefficients(kind: str) -> None:
    t = inner_times().requires_grad_()
    c = Interpolant(kind).at(t)
    (noise_rate,) = torch.autograd.grad(c.noise.sum(), t, retain_graph=True)
    (data_rate,) = torch.autograd.grad(c.data.sum(), t)
    torch.testing.assert_close(c.noise_rate.detach(), noise_rate, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(c.data_rate.detach(), data_rate, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rates_are_the_slopes_of_finite_differences(kind: str) -> None:
    t, h = inner_times(), 1e-5
    ahead, behind, c = (Interpolant(kind).at(t + shift) for shift in (h, -h, 0))
    # central differences: h^2 times a third derivative (largest at t = 0.99, where alpha''' is 4e4), plus 1e-16 / h
    torch.testing.assert_close(c.noise_rate, (ahead.noise - behind.noise) / (2 * h), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(c.data_rate, (ahead.data - behind.data) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@given(st.floats(0, 0.999999))
def test_wronskian_and_products_are_what_their_names_say(kind: str, t: float) -> None:
    c = Interpolant(kind).at(float64(t))
    torch.testing.assert_close(c.wronskian, c.noise * c.data_rate - c.data * c.noise_rate, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(c.gain, c.noise * c.wronskian, rtol=1e-12, atol=0)
    torch.testing.assert_close(c.noise_product, c.noise * c.noise_rate, rtol=1e-12, atol=0)
    assert c.wronskian.item() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_products_are_finite_on_the_whole_interval(kind: str, dtype: torch.dtype) -> None:
    c = Interpolant(kind).at(torch.linspace(0, 1, 101, dtype=dtype))
    for value in (c.noise, c.data, c.data_rate, c.noise_product, c.gain):
        assert value.dtype == dtype
        assert value.shape == (101,)
        assert torch.isfinite(value).all()


@pytest.mark.parametrize(
    ("kind", "noise_rate", "wronskian"),
    [
        ("linear", -1.0, 1.0),
        ("trigonometric", -math.pi / 2, math.pi / 2),
        ("foellmer", -math.inf, math.inf),
        ("vp", -math.inf, math.inf),
    ],
)
def test_only_foellmer_and_vp_are_singular_at_the_data(kind: str, noise_rate: float, wronskian: float) -> None:
    c = Interpolant(kind).at(float64(1.0))
    assert c.noise_rate.item() == pytest.approx(noise_rate)
    assert c.wronskian.item() == pytest.approx(wronskian)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", lambda u: u**2),
        ("foellmer", lambda u: 2 * u - u**2),
        ("trigonometric", lambda u: (math.pi * u / 2) ** 2 * (1 - (math.pi * u / 2) ** 2 / 3)),
        ("vp", lambda u: 0.1 * u + 9.945 * u**2),  # 1 - exp(-(19.9/2 u^2 + 0.1 u)) to second order
    ],
)
def test_alpha_keeps_its_digits_near_the_data(kind: str, expected: Callable[[float], float]) -> None:
    remaining = 2.0**-30  # 1 - t is exact, and the terms left out are below 1e-14 of the value
    c = Interpolant(kind).at(float64(1 - remaining))
    assert c.noise.item() ** 2 == pytest.approx(expected(remaining), rel=1e-13, abs=0)


@pytest.mark.parametrize("kind", VARIANCE_PRESERVING)
def test_a_variance_preserving_interpolant_keeps_the_squares_at_one(kind: str) -> None:
    c = Interpolant(kind).at(torch.linspace(0, 1, 101, dtype=torch.float64))
    torch.testing.assert_close(c.noise**2 + c.data**2, torch.ones_like(c.data), rtol=0, atol=4 * EPS)
    torch.testing.assert_close(c.noise_product, -c.data * c.data_rate, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_only_falls_and_data_only_rises(kind: str) -> None:
    c = Interpolant(kind).at(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert (c.noise.diff() < 0).all()
    assert (c.data.diff() > 0).all()


@pytest.mark.parametrize("t", [1e-3, 0.3, 0.9, 1 - 1e-4, 1 - 1e-8])
@pytest.mark.parametrize("kind", KINDS)
def test_the_conversions_agree_with_the_exact_law_up_to_cancellation(kind: str, t: float) -> None:
    """Velocity, denoiser and score of a mixture are known apart, each in a form without division by alpha."""
    interpolant = Interpolant(kind)
    field = OracleField(interpolant, skewed_mixture())
    x = points(20)
    times = torch.full((20,), t, dtype=torch.float64)
    denoiser, velocity, score = (of(times, x) for of in (field.denoiser, field.velocity, field.score))
    c = interpolant.at(float64(t))
    # what rounding of numbers of size 10 becomes when divided as the formula divides
    size = 200 * EPS * 10
    for found, exact, magnified in (
        (velocity_from_denoiser(interpolant, times, x, denoiser), velocity, c.gain / c.noise**2),
        (denoiser_from_velocity(interpolant, times, x, velocity), denoiser, (c.noise_product / c.gain).abs()),
        (score_from_denoiser(interpolant, times, x, denoiser), score, 1 / c.noise**2),
        (denoiser_from_score(interpolant, times, x, score), denoiser, 1 / c.data),
        (velocity_from_score(interpolant, times, x, score), velocity, (c.data_rate + c.gain) / c.data),
    ):
        bound = size * (1 + magnified.item())
        assert (found - exact).abs().max().item() < bound


@pytest.mark.parametrize("kind", KINDS)
@given(st.floats(0.05, 0.95), st.floats(-5, 5), st.floats(-5, 5))
def test_converting_there_and_back_changes_nothing(kind: str, t: float, x: float, value: float) -> None:
    interpolant, times = Interpolant(kind), float64(t)
    x_t, denoised = torch.full((1, 1), x, dtype=torch.float64), torch.full((1, 1), value, dtype=torch.float64)
    velocity = velocity_from_denoiser(interpolant, times, x_t, denoised)
    score = score_from_denoiser(interpolant, times, x_t, denoised)
    for back in (
        denoiser_from_velocity(interpolant, times, x_t, velocity),
        denoiser_from_score(interpolant, times, x_t, score),
    ):
        # vp's beta is 0.01 at t = 0.05, and its square divides
        torch.testing.assert_close(back, denoised, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(velocity_from_score(interpolant, times, x_t, score), velocity, rtol=1e-9, atol=1e-9)


def test_a_row_has_its_own_time() -> None:
    x0, x1 = torch.ones(3, 2, 2, 2), torch.zeros(3, 2, 2, 2)
    x = interpolate(Interpolant("linear"), torch.tensor([0.0, 0.25, 1.0]), x0, x1)
    assert x[:, 0, 0, 0].tolist() == [1.0, 0.75, 0.0]
    assert (x == x[:, :1, :1, :1]).all()


def test_expanding_leaves_a_single_time_alone() -> None:
    x = torch.zeros(4, 3, 2)
    assert expand(torch.tensor(0.5), x).shape == ()
    assert expand(torch.rand(4), x).shape == (4, 1, 1)


def test_an_unknown_interpolant_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"interpolant\.kind must be one of linear, foellmer.*got 'cosine'"):
        Interpolant("cosine")
