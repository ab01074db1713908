"""The contract of a velocity field, run against every implementation; a new one joins ``FIELDS``."""

from collections.abc import Callable

import pytest
import torch

from tasks.networks.build import build_denoiser
from tasks.specs import NetworkSpec
from tasks.transport.field import VelocityField
from tasks.transport.interpolant import Interpolant, denoiser_from_velocity
from tasks.transport.targets import Gaussian, GaussianMixture, OracleField

KINDS = ("linear", "foellmer", "trigonometric", "vp")
DIM = (2, 3)


def oracle(kind: str) -> VelocityField:
    law = Gaussian(torch.arange(6.0).double(), torch.diag(torch.arange(1.0, 7.0)).double())
    return OracleField(Interpolant(kind), GaussianMixture((1.0,), (law,)))


def network(kind: str) -> VelocityField:
    denoiser = build_denoiser(NetworkSpec(width=16, depth=2), DIM, seed=0, interpolant=kind, data_std=0.8)
    rng = torch.Generator().manual_seed(1)
    for parameter in denoiser.parameters():  # a fresh network gives zeros, which would prove little
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=rng)
    return denoiser.requires_grad_(False)


FIELDS: dict[str, Callable[[str], VelocityField]] = {"oracle": oracle, "network": network}


def states() -> torch.Tensor:
    return torch.randn(7, *DIM, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FIELDS)
def test_both_methods_keep_shape_and_type(name: str, kind: str) -> None:
    field, x = FIELDS[name](kind), states()
    for of in (field.velocity, field.denoiser):
        for t in (torch.tensor(0.25), torch.tensor(0.25, dtype=torch.float64), torch.full((7,), 0.25)):
            assert of(t, x).shape == x.shape
            assert of(t, x).dtype == x.dtype


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FIELDS)
def test_one_time_for_all_rows_is_that_time_for_each_row(name: str, kind: str) -> None:
    field, x = FIELDS[name](kind), states()
    for of in (field.velocity, field.denoiser):
        torch.testing.assert_close(of(torch.tensor(0.25), x), of(torch.full((7,), 0.25), x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FIELDS)
def test_rows_do_not_see_each_other(name: str, kind: str) -> None:
    field, x, t = FIELDS[name](kind), states(), torch.linspace(0, 0.9, 7)
    for of in (field.velocity, field.denoiser):
        alone = torch.cat([of(t[i : i + 1], x[i : i + 1]) for i in range(7)])
        torch.testing.assert_close(of(t, x), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FIELDS)
def test_velocity_and_denoiser_tell_the_same_story(name: str, kind: str) -> None:
    field, x, t = FIELDS[name](kind), states(), torch.linspace(0.05, 0.95, 7)
    # for vp the denoiser is the small difference of large terms near the noise, where beta' is 0.1
    converted = denoiser_from_velocity(Interpolant(kind), t, x, field.velocity(t, x))
    torch.testing.assert_close(converted, field.denoiser(t, x), rtol=1e-4, atol=2e-4)
