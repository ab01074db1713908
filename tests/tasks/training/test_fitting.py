"""The generator's loss: each term as asked, in units of a coordinate, and the diagonal's on rows of the data."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from tasks.networks.generator import Generator
from tasks.specs import GENERATOR_FORMS, GeneratorSpec
from tasks.training.fitting import TorchPairs, fitting_loss, pair_error
from tasks.training.loader import MatchingBatch
from tasks.transport.interpolant import Interpolant
from tasks.transport.targets import Gaussian, GaussianMixture, OracleField


@dataclass
class Map:
    """Any two-time map where a generator is asked for."""

    call: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    interpolant = Interpolant("linear")
    data_std = 1.0

    def __call__(self, t: Tensor, s: Tensor, x: Tensor, label: Tensor | None) -> Tensor:
        return self.call(t, s, x, label)

    def denoiser(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        raise AssertionError("the diagonal is not asked for")


def shift(t: Tensor, s: Tensor, x: Tensor, label: Tensor | None) -> Tensor:
    """Move a row at the speed of its label."""
    return x if label is None else x + ((s - t) * label)[:, None]


def pairs() -> TorchPairs:
    label = torch.tensor([-1, 0, 4, 2])
    t, s, x = torch.tensor([0.0, 0.1, 0.2, 0.3]), torch.tensor([1.0, 0.5, 0.9, 0.4]), torch.zeros(4, 2)
    return TorchPairs(x_t=x, x_s=shift(t, s, x, label), t=t, s=s, label=label)


@pytest.mark.parametrize("semigroup", [0.0, 0.5])
def test_the_loss_gives_each_row_its_label(semigroup: float) -> None:
    """With the map that moves a row at the speed of its label the loss of such pairs vanishes, and of others not."""
    batch = pairs()
    if semigroup:
        batch = replace(batch, r=(batch.t + batch.s) / 2)
    loss = fitting_loss(cast(Generator, Map(shift)), GeneratorSpec(semigroup=semigroup))
    assert float(loss(batch).max()) < 1e-12
    assert batch.label is not None
    unlabelled = ((batch.s - batch.t) * batch.label).square()
    torch.testing.assert_close(loss(replace(batch, label=None)), (1 + semigroup) * unlabelled)


@pytest.mark.parametrize(("kind", "expected"), [("squared", 0.25), ("huber", 0.5 - 0.00054)])
@pytest.mark.parametrize("size", [1, 6])
def test_the_error_is_of_a_coordinate_whatever_their_number(kind: str, expected: float, size: int) -> None:
    x = torch.zeros(3, size, dtype=torch.float64)
    error = pair_error(GeneratorSpec(loss=kind), None)(x + 0.5, x)
    assert error.shape == (3,)
    assert error.tolist() == pytest.approx([expected] * 3, rel=1e-6)


def test_features_add_their_mean_squared_error_with_its_weight() -> None:
    """Features (2 x, x) of a constant gap 0.5 differ by 1 and 0.5: mean square 0.625, beside 0.25 of the states."""
    x = torch.zeros(3, 2)
    spec = GeneratorSpec(features="given:here", features_weight=0.4)
    error = pair_error(spec, lambda x: torch.cat([2 * x, x], 1))(x + 0.5, x)
    assert error.tolist() == pytest.approx([0.25 + 0.4 * 0.625] * 3)


def test_the_gradient_passes_through_the_features_into_the_map() -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    net = nn.Linear(2, 2, bias=False).requires_grad_(False)
    nn.init.constant_(net.weight, 1.0)
    spec = GeneratorSpec(features="given:here", features_weight=0.5)
    loss = fitting_loss(cast(Generator, Map(lambda t, s, x, label: weight * x)), spec, features=net)
    one = torch.ones(4, 2)
    value = loss(replace(pairs(), x_t=one, x_s=one)).mean()
    # states: (w - 1)^2; features 2 w each: 0.5 (2 w - 2)^2; slopes 2 (w - 1) + 4 (w - 1)
    assert value.item() == pytest.approx(4 + 0.5 * 16)
    assert float(torch.autograd.grad(value, weight)[0]) == pytest.approx(6 * 2)


class Scaled(nn.Module):
    """The raw output of the exact denoiser of N(0, std^2) in units of data_std = 1, times a weight."""

    def __init__(self, field: OracleField, weight: float) -> None:
        super().__init__()
        self.field = field
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, scaled: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        c = self.field.interpolant.at(t[:, None])
        q = c.noise**2 + c.data**2
        x = scaled * q.sqrt()
        return self.weight * (self.field.denoiser(t, x) - c.data / q * x) * q.sqrt() / c.noise


@pytest.mark.parametrize("form", GENERATOR_FORMS)
def test_the_diagonal_is_least_at_the_denoiser_of_the_data(form: str) -> None:
    """On many rows the derivative along the raw output vanishes at the exact one within its sampling error."""
    law = Gaussian(torch.zeros(2, dtype=torch.float64), 4 * torch.eye(2, dtype=torch.float64))
    field = OracleField(Interpolant("linear"), GaussianMixture((1.0,), (law,)))
    rng, rows = torch.Generator().manual_seed(0), 20_000
    x0, x1 = (torch.randn(rows, 2, dtype=torch.float64, generator=rng) for _ in range(2))
    t = torch.rand(rows, dtype=torch.float64, generator=rng)
    diagonal = MatchingBatch(t=t, x0=x0, x1=2 * x1, weight=torch.ones(rows), label=None)
    empty = torch.zeros(1, 2, dtype=torch.float64)
    batch = TorchPairs(x_t=empty, x_s=empty, t=t[:1], s=t[:1], label=None, diagonal=diagonal)
    values, slopes = [], []
    for weight in (0.5, 1.0, 1.5):
        net = Scaled(field, weight)
        generator = Generator(net, interpolant=Interpolant("linear"), data_std=1.0, form=form)
        value = fitting_loss(generator, GeneratorSpec(diagonal=0.3))(batch).mean()
        values.append(value.item())
        slopes.append(float(torch.autograd.grad(value, net.weight)[0]))
    assert values[1] < min(values[0], values[2])
    assert slopes[0] < -0.05
    assert abs(slopes[1]) < 0.01
    assert slopes[2] > 0.05
