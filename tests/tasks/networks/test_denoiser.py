"""The preconditioned denoiser: exact for what it should be exact for, and one field seen two ways."""

import pytest
import torch
from torch import Tensor, nn

from tasks.networks.denoiser import Denoiser
from tasks.transport.interpolant import Interpolant, velocity_from_denoiser
from tasks.transport.targets import Gaussian, GaussianMixture, OracleField

KINDS = ("linear", "foellmer", "trigonometric", "vp")


class Wave(nn.Module):
    """A stand-in for a network: any smooth function of (x, t), and a record of what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.empty(0)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen = x
        return (2 * x + t.reshape(-1, *[1] * (x.ndim - 1))).sin()


class Zero(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)


def states(rows: int) -> Tensor:
    return 2 * torch.randn(rows, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_velocity_is_the_conversion_of_the_denoiser(kind: str) -> None:
    interpolant = Interpolant(kind)
    denoiser = Denoiser(Wave(), interpolant=interpolant, data_std=0.7)
    t, x = torch.linspace(0, 0.99, 8, dtype=torch.float64), states(8)
    expected = velocity_from_denoiser(interpolant, t, x, denoiser(t, x))
    torch.testing.assert_close(denoiser.velocity(t, x), expected, rtol=1e-11, atol=1e-11)
    assert torch.equal(denoiser.denoiser(t, x), denoiser(t, x))


@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_with_a_silent_network_it_is_the_oracle_of_a_centred_gaussian(kind: str, std: float) -> None:
    """c_skip x is the linear regression of x1 on x_t, and the velocity its exact companion, up to t = 1."""
    law = Gaussian(torch.zeros(4).double(), std**2 * torch.eye(4).double())
    oracle = OracleField(Interpolant(kind), GaussianMixture((1.0,), (law,)))
    denoiser = Denoiser(Zero(), interpolant=Interpolant(kind), data_std=std)
    x = states(8)
    for t in torch.tensor([0.0, 0.3, 0.9, 0.9999], dtype=torch.float64):
        torch.testing.assert_close(denoiser(t, x), oracle.denoiser(t, x), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(denoiser.velocity(t, x), oracle.velocity(t, x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_sees_states_of_unit_scale(kind: str) -> None:
    """For x0 = a and x1 = sd b with orthonormal a, b the input has the norm 1 at all times."""
    sd = 3.0
    for t in (0.0, 0.4, 0.9, 1.0):
        wave, times = Wave(), torch.tensor(t, dtype=torch.float64)
        c = Interpolant(kind).at(times)
        x = torch.stack([c.noise, sd * c.data]).reshape(1, 2)
        Denoiser(wave, interpolant=Interpolant(kind), data_std=sd)(times, x)
        assert wave.seen.norm().item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("kind", ["linear", "foellmer", "trigonometric"])
def test_at_the_noise_end_the_network_alone_speaks_and_at_the_data_end_it_is_silent(kind: str) -> None:
    denoiser, x = Denoiser(Wave(), interpolant=Interpolant(kind), data_std=0.7), states(3)
    start, end = (torch.tensor(t, dtype=torch.float64) for t in (0.0, 1.0))
    torch.testing.assert_close(denoiser(start, x), 0.7 * (2 * x).sin(), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(denoiser(end, x), x, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_the_velocity_is_finite_at_the_data_end_where_the_rates_are(kind: str) -> None:
    denoiser = Denoiser(Wave(), interpolant=Interpolant(kind), data_std=0.7)
    assert torch.isfinite(denoiser.velocity(torch.tensor(1.0), states(3))).all()


def test_the_raw_error_is_what_denoiser_matching_weighs_to_one() -> None:
    """D - D' = c_out (F - F'), so dividing the squared error by c_out^2 makes it uniform in the network."""
    interpolant, x = Interpolant("linear"), states(5)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    loud, silent = (Denoiser(net, interpolant=interpolant, data_std=0.7)(t, x) for net in (Wave(), Zero()))
    c = interpolant.at(t)
    c_out = c.noise * 0.7 / (c.noise**2 + c.data**2 * 0.49).sqrt()
    c_in = 1 / (c.noise**2 + c.data**2 * 0.49).sqrt()
    expected = (2 * x * c_in[:, None, None] + t[:, None, None]).sin()
    torch.testing.assert_close((loud - silent) / c_out[:, None, None], expected, rtol=1e-11, atol=1e-12)
