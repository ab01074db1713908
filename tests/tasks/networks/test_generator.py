"""The generator: the identity on the diagonal, and the exact map where its denoiser is the right one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tasks.networks.build import build_generator
from tasks.networks.denoiser import Denoiser
from tasks.networks.generator import Generator
from tasks.specs import GENERATOR_FORMS, NETWORK_KINDS, NetworkSpec
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


def generator_of(kind: str, form: str, *, backbone: nn.Module | None = None, data_std: float = 0.7) -> Generator:
    return Generator(backbone or Wave(), interpolant=Interpolant(kind), data_std=data_std, form=form)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", GENERATOR_FORMS)
@pytest.mark.parametrize("kind", KINDS)
@given(st.floats(0, 1))
def test_the_map_from_a_time_to_itself_is_the_identity_bit_for_bit(
    kind: str, form: str, dtype: torch.dtype, time: float
) -> None:
    x, generator = states(3, dtype), generator_of(kind, form)
    t = torch.tensor(time, dtype=dtype)
    assert torch.equal(generator(t, t, x), x)
    assert torch.equal(generator(t.expand(3), t.expand(3), x), x)


@pytest.mark.parametrize("network", NETWORK_KINDS)
@pytest.mark.parametrize("form", GENERATOR_FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_built_generator_is_the_identity_on_the_diagonal_up_to_the_data(kind: str, form: str, network: str) -> None:
    spec = NetworkSpec(kind=network, width=8, depth=1, channels=4, multipliers=(1, 2), blocks=1)
    generator = build_generator(spec, (1, 2, 2), seed=0, interpolant=kind, data_std=0.7, classes=2, form=form)
    for parameter in generator.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    t, x = torch.linspace(0, 1, 11), states(11, torch.float32)[:, None]
    for label in (None, torch.arange(11) % 3 - 1):
        assert torch.equal(generator(t, t, x, label), x)


@pytest.mark.parametrize("form", GENERATOR_FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_leaving_the_diagonal_it_moves_with_its_own_velocity(kind: str, form: str) -> None:
    """d/ds g(t, s, x) at s = t is the velocity of the denoiser on the diagonal."""
    x, generator, label = states(5), generator_of(kind, form), torch.tensor([1, -1, 0, 2, 1])
    diagonal = Denoiser(Wave(), interpolant=Interpolant(kind), data_std=0.7)
    h = 1e-5
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    for given_label in (None, label):
        slope = (generator(t, t + h, x, given_label) - generator(t, t - h, x, given_label)) / (2 * h)
        torch.testing.assert_close(slope, diagonal.velocity(t, x, given_label), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(generator.denoiser(t, x, given_label), diagonal(t, x, given_label))


class RightAnswer(nn.Module):
    """The raw output that makes a generator the exact flow of a Gaussian, and the largest that was asked for."""

    def __init__(self, oracle: OracleField, *, data_std: float, form: str) -> None:
        super().__init__()
        self.oracle = oracle
        self.data_std = data_std
        self.form = form
        self.largest = 0.0

    def forward(self, scaled: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        now, then = self.oracle.interpolant.at(expand(t, scaled)), self.oracle.interpolant.at(expand(s, scaled))
        q = now.noise**2 + (self.data_std * now.data) ** 2
        x = scaled * q.sqrt()
        if self.form == "exponential":
            ratio = then.noise / now.noise
            denoised = (self.oracle.flow_map(t, s, x) - ratio * x) / (then.data - ratio * now.data)
            raw = (denoised - now.data * self.data_std**2 / q * x) * q.sqrt() / (now.noise * self.data_std)
        else:
            velocity = (self.oracle.flow_map(t, s, x) - x) / expand(s - t, x)
            slope = (now.noise_product + self.data_std**2 * now.data * now.data_rate) / q
            raw = (velocity - slope * x) * q.sqrt() / (now.wronskian * self.data_std)
        self.largest = max(self.largest, float(raw.abs().max()))
        return raw


@pytest.mark.parametrize("form", GENERATOR_FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_some_network_makes_it_the_exact_flow(kind: str, form: str) -> None:
    """The parameterisation loses nothing: some raw output of moderate size gives the flow of N(3, 2^2), to s = 1."""
    law = Gaussian(torch.full((4,), 3.0).double(), 4 * torch.eye(4).double())
    oracle = OracleField(Interpolant(kind), GaussianMixture((1.0,), (law,)))
    answer = RightAnswer(oracle, data_std=2.0, form=form)
    generator, x = generator_of(kind, form, backbone=answer, data_std=2.0), states(5)
    for t, s in ((0.0, 0.5), (0.0, 1.0), (0.7, 0.9), (0.9, 1.0)):
        now, then = (torch.tensor(value, dtype=torch.float64) for value in (t, s))
        torch.testing.assert_close(generator(now, then, x), oracle.flow_map(now, then, x), rtol=1e-10, atol=1e-10)
    # of x up to 6; vp hardly moves at t = 0, where W = 0.066, so that a mean velocity is large beside the first one
    assert answer.largest < (70 if (kind, form) == ("vp", "euler") else 15)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", GENERATOR_FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_finite_and_near_the_identity_however_late_it_starts(kind: str, form: str, dtype: torch.dtype) -> None:
    """W is infinite at t = 1 for some; (s - t) W is not, and goes to nothing."""
    x, generator = states(1, dtype), generator_of(kind, form)
    end = torch.tensor(1.0, dtype=dtype)
    for late in (1e-3, 1e-5, float(1 - torch.nextafter(end, 0 * end))):
        step = (generator(end - late, end, x) - x).abs().max()
        # |raw| <= 2, |x| <= 6; alpha(1 - late) falls like a root at worst
        assert step < 15 * late**0.5


@pytest.mark.parametrize("form", GENERATOR_FORMS)
def test_rows_have_their_own_times(form: str) -> None:
    generator, x = generator_of("foellmer", form), states(3)
    t, s = (torch.tensor(values, dtype=torch.float64) for values in ([0.0, 0.3, 0.6], [0.5, 0.4, 1.0]))
    together = generator(t, s, x)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], generator(t[i], s[i], x[i : i + 1]), rtol=1e-13, atol=1e-14)


def test_for_the_linear_interpolant_the_forms_are_one_map() -> None:
    t, s, x = torch.tensor(0.3).double(), torch.tensor(0.8).double(), states(3)
    exponential, euler = (generator_of("linear", form)(t, s, x) for form in ("exponential", "euler"))
    torch.testing.assert_close(exponential, euler, rtol=1e-12, atol=1e-12)
    other = [generator_of("trigonometric", form)(t, s, x) for form in ("exponential", "euler")]
    assert (other[0] - other[1]).abs().max() > 0.1


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"generator\.form must be one of exponential, euler, got 'heun'"):
        generator_of("linear", "heun")


@pytest.mark.parametrize("form", GENERATOR_FORMS)
def test_rows_have_their_own_labels(form: str) -> None:
    generator, x = generator_of("foellmer", form), states(3)
    t, s, label = torch.tensor(0.2).double(), torch.tensor(0.7).double(), torch.tensor([1, -1, 0])
    together = generator(t, s, x, label)
    for i in range(3):
        torch.testing.assert_close(together[i], generator(t, s, x[i : i + 1], label[i : i + 1])[0], rtol=1e-13, atol=0)
    assert torch.equal(together[1], generator(t, s, x)[1])
    assert not torch.equal(together[0], generator(t, s, x)[0])
