"""The preconditioned denoiser: exact for what it should be exact for, and one field seen two ways."""

import pytest
import torch
from torch import Tensor, nn

from tasks.networks.build import build_denoiser
from tasks.networks.denoiser import Denoiser
from tasks.specs import NetworkSpec
from tasks.transport.interpolant import Interpolant, velocity_from_denoiser
from tasks.transport.targets import Gaussian, GaussianMixture, OracleField

KINDS = ("linear", "foellmer", "trigonometric", "vp")


class Wave(nn.Module):
    """A stand-in for a network: any smooth function of (x, t, label), and a record of what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.empty(0)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen = x
        phase = t if label is None else t + (label + 1)
        return (2 * x + phase.reshape(-1, *[1] * (x.ndim - 1))).sin()


class Zero(nn.Module):
    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
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


@pytest.mark.parametrize("kind", KINDS)
def test_labels_reach_the_network_from_every_method_row_by_row(kind: str) -> None:
    interpolant = Interpolant(kind)
    denoiser = Denoiser(Wave(), interpolant=interpolant, data_std=0.7)
    t, x, label = torch.linspace(0, 0.99, 4, dtype=torch.float64), states(4), torch.tensor([2, -1, 0, 1])
    expected = velocity_from_denoiser(interpolant, t, x, denoiser(t, x, label))
    torch.testing.assert_close(denoiser.velocity(t, x, label), expected, rtol=1e-11, atol=1e-11)
    assert torch.equal(denoiser.denoiser(t, x, label), denoiser(t, x, label))
    same = (denoiser(t, x, label) == denoiser(t, x)).flatten(1).all(1)
    assert same.tolist() == [False, True, False, False]


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_guided_denoiser_is_one_field_seen_two_ways(kind: str, guidance: float) -> None:
    interpolant = Interpolant(kind)
    denoiser = Denoiser(Wave(), interpolant=interpolant, data_std=0.7)
    t, x = torch.linspace(0, 0.99, 4, dtype=torch.float64), states(4)
    field = denoiser.given(torch.tensor([2, -1, 0, 1]), guidance)
    expected = velocity_from_denoiser(interpolant, t, x, field.denoiser(t, x))
    torch.testing.assert_close(field.velocity(t, x), expected, rtol=1e-10, atol=1e-10)


def test_with_weight_one_a_given_label_is_that_label_bit_for_bit() -> None:
    denoiser = build_denoiser(
        NetworkSpec(width=16, depth=2), (2, 2), seed=0, interpolant="linear", data_std=0.7, classes=3
    )
    nn.init.normal_(denoiser.get_parameter("backbone.output.weight"), generator=torch.Generator().manual_seed(0))
    t, x, label = torch.tensor(0.4), states(4).float(), torch.tensor([2, -1, 0, 1])
    assert torch.equal(denoiser.given(label, 1.0).velocity(t, x), denoiser.velocity(t, x, label))
    assert torch.equal(denoiser.given(label, 1.0).denoiser(t, x), denoiser(t, x, label))
    assert not torch.equal(denoiser(t, x, label), denoiser(t, x))
