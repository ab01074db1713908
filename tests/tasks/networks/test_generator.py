"""The generator: the identity on the diagonal, and the exact map where its denoiser is the right one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tasks.networks.build import build_generator
from tasks.networks.denoiser import Denoiser
from tasks.networks.generator import Generator
from tasks.specs import NETWORK_KINDS, NetworkSpec
from tasks.transport.interpolant import Interpolant, expand
from tasks.transport.targets import Gaussian, GaussianMixture, OracleField

KINDS = ("linear", "foellmer", "trigonometric", "vp")


class Wave(nn.Module):
    """A stand-in for a network of one or two times and labels."""

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        second = torch.zeros_like(t) if s is None else s - t
        phase = t if label is None else t + (label + 1)
        return (2 * x + expand(phase, x)).sin() + expand(second, x)


def states(rows: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.randn(rows, 2, 2, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@given(st.floats(0, 1))
def test_the_map_from_a_time_to_itself_is_the_identity_bit_for_bit(kind: str, dtype: torch.dtype, time: float) -> None:
    x, generator = states(3, dtype), Generator(Wave(), interpolant=Interpolant(kind), data_std=0.7)
    t = torch.tensor(time, dtype=dtype)
    assert torch.equal(generator(t, t, x), x)
    assert torch.equal(generator(t.expand(3), t.expand(3), x), x)


@pytest.mark.parametrize("network", NETWORK_KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_built_generator_is_the_identity_on_the_diagonal_up_to_the_data(kind: str, network: str) -> None:
    spec = NetworkSpec(kind=network, width=8, depth=1, channels=4, multipliers=(1, 2), blocks=1)
    generator = build_generator(spec, (1, 2, 2), seed=0, interpolant=kind, data_std=0.7, classes=2)
    for parameter in generator.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    t, x = torch.linspace(0, 1, 11), states(11, torch.float32)[:, None]
    for label in (None, torch.arange(11) % 3 - 1):
        assert torch.equal(generator(t, t, x, label), x)


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_the_diagonal_it_moves_with_its_own_velocity(kind: str) -> None:
    """d/ds g(t, s, x) at s = t is the velocity of the denoiser on the diagonal."""
    interpolant, x = Interpolant(kind), states(5)
    generator = Generator(Wave(), interpolant=interpolant, data_std=0.7)
    diagonal = Denoiser(Wave(), interpolant=interpolant, data_std=0.7)
    h = 1e-5
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    slope = (generator(t, t + h, x) - generator(t, t - h, x)) / (2 * h)
    torch.testing.assert_close(slope, diagonal.velocity(t, x), rtol=1e-7, atol=1e-7)


class RightAnswer(nn.Module):
    """The raw output that makes a generator the exact flow of a Gaussian."""

    def __init__(self, oracle: OracleField, *, data_std: float) -> None:
        super().__init__()
        self.oracle = oracle
        self.data_std = data_std

    def forward(self, scaled: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        now, then = self.oracle.interpolant.at(expand(t, scaled)), self.oracle.interpolant.at(expand(s, scaled))
        q = now.noise**2 + (self.data_std * now.data) ** 2
        x = scaled * q.sqrt()
        ratio = then.noise / now.noise
        denoised = (self.oracle.flow_map(t, s, x) - ratio * x) / (then.data - ratio * now.data)
        return (denoised - now.data * self.data_std**2 / q * x) * q.sqrt() / (now.noise * self.data_std)


@pytest.mark.parametrize("kind", KINDS)
def test_some_network_makes_it_the_exact_flow(kind: str) -> None:
    """The parameterisation loses nothing: some raw output of moderate size gives the flow of N(3, 2^2), to s = 1."""
    law = Gaussian(torch.full((4,), 3.0).double(), 4 * torch.eye(4).double())
    oracle = OracleField(Interpolant(kind), GaussianMixture((1.0,), (law,)))
    answer = RightAnswer(oracle, data_std=2.0)
    generator, x = Generator(answer, interpolant=Interpolant(kind), data_std=2.0), states(5)
    for t, s in ((0.0, 0.5), (0.0, 1.0), (0.7, 0.9), (0.9, 1.0)):
        now, then = (torch.tensor(value, dtype=torch.float64) for value in (t, s))
        torch.testing.assert_close(generator(now, then, x), oracle.flow_map(now, then, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_data_end_it_gives_its_denoiser(kind: str) -> None:
    """alpha_1 = 0 and beta_1 = 1, so g(t, 1, x) = D(x, t, 1): bounded targets however late t is."""
    interpolant, x = Interpolant(kind), states(5)
    generator = Generator(Wave(), interpolant=interpolant, data_std=0.7)
    for t in (0.0, 0.5, 1 - 1e-9):
        now, end = torch.tensor(t, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
        c = interpolant.at(now)
        q = c.noise**2 + 0.49 * c.data**2
        denoised = c.data * 0.49 / q * x + c.noise * 0.7 / q.sqrt() * Wave()(x / q.sqrt(), now, end)
        torch.testing.assert_close(generator(now, end, x), denoised, rtol=1e-13, atol=1e-14)


def test_rows_have_their_own_times() -> None:
    generator, x = Generator(Wave(), interpolant=Interpolant("foellmer"), data_std=0.7), states(3)
    t, s = (torch.tensor(values, dtype=torch.float64) for values in ([0.0, 0.3, 0.6], [0.5, 0.4, 1.0]))
    together = generator(t, s, x)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], generator(t[i], s[i], x[i : i + 1]), rtol=1e-13, atol=1e-14)


def test_rows_have_their_own_labels() -> None:
    generator, x = Generator(Wave(), interpolant=Interpolant("foellmer"), data_std=0.7), states(3)
    t, s, label = torch.tensor(0.2).double(), torch.tensor(0.7).double(), torch.tensor([1, -1, 0])
    together = generator(t, s, x, label)
    for i in range(3):
        torch.testing.assert_close(together[i], generator(t, s, x[i : i + 1], label[i : i + 1])[0], rtol=1e-13, atol=0)
    assert torch.equal(together[1], generator(t, s, x)[1])
    assert not torch.equal(together[0], generator(t, s, x)[0])
