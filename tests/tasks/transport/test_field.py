"""The contract of a velocity field, run against every implementation; a new one joins ``FIELDS``. And guidance."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tasks.networks.build import build_denoiser
from tasks.specs import NetworkSpec
from tasks.transport.field import ConditionalField, Guided, VelocityField
from tasks.transport.grid import time_grid
from tasks.transport.interpolant import Interpolant, denoiser_from_velocity, expand
from tasks.transport.solver import solve
from tasks.transport.targets import Gaussian, GaussianMixture, OracleField

KINDS = ("linear", "foellmer", "trigonometric", "vp")
DIM = (2, 2, 2)


def oracle(kind: str) -> VelocityField:
    law = Gaussian(torch.arange(8.0).double(), torch.diag(torch.arange(1.0, 9.0)).double())
    return OracleField(Interpolant(kind), GaussianMixture((1.0,), (law,)))


def conditional_network(kind: str, *, network: str = "mlp") -> ConditionalField:
    spec = NetworkSpec(kind=network, width=16, depth=2, channels=4, multipliers=(1, 2), blocks=1, attention=(2,))
    denoiser = build_denoiser(spec, DIM, seed=0, interpolant=kind, data_std=0.8, classes=3)
    rng = torch.Generator().manual_seed(1)
    for parameter in denoiser.parameters():  # a fresh network gives zeros, which would prove little
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=rng)
    return denoiser.requires_grad_(False)


def unet(kind: str) -> VelocityField:
    return conditional_network(kind, network="unet")


FIELDS: dict[str, Callable[[str], VelocityField]] = {"oracle": oracle, "mlp": conditional_network, "unet": unet}


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


class Shifted:
    """A labelled field in closed form, v = t x + label + 1, and a record of the rows it was asked for.

    Args:
        rounding: added per place in the batch, as matrix products may round a row by where it stands.
    """

    def __init__(self, *, rounding: float = 0.0) -> None:
        self.asked: list[int] = []
        self.rounding = rounding

    def velocity(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        self.asked.append(len(x_t))
        known = torch.full((len(x_t),), -1) if label is None else label
        return expand(t, x_t) * x_t + expand(known + 1, x_t) + expand(self.rounding * torch.arange(len(x_t)), x_t)

    def denoiser(self, t: Tensor, x_t: Tensor, label: Tensor | None = None) -> Tensor:
        return 2 * self.velocity(t, x_t, label)


LABEL = torch.tensor([2, -1, 0, 1, -1, 0, 2])


@pytest.mark.parametrize("t", [torch.tensor(0.5).double(), torch.linspace(0, 1, 7).double()])
@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 3.0])
def test_guidance_multiplies_what_a_label_adds(guidance: float, t: Tensor) -> None:
    x = states().double()
    field = Guided(field=Shifted(), label=LABEL, guidance=guidance)
    expected = expand(t, x) * x + guidance * expand(LABEL + 1, x)
    torch.testing.assert_close(field.velocity(t, x), expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(field.denoiser(t, x), 2 * expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 3.0, 1e30])
def test_rows_without_a_label_are_unconditional_bit_for_bit_whatever_the_weight(guidance: float) -> None:
    x, t, inner = states(), torch.tensor(0.3), Shifted(rounding=1e-6)
    field = Guided(field=inner, label=LABEL, guidance=guidance)
    assert torch.equal(field.velocity(t, x)[LABEL < 0], inner.velocity(t, x)[LABEL < 0])
    assert torch.equal(field.denoiser(t, x)[LABEL < 0], inner.denoiser(t, x)[LABEL < 0])


@pytest.mark.parametrize(
    ("guidance", "label", "rows"),
    [(2.0, LABEL, 14), (1.0, LABEL, 7), (0.0, LABEL, 7), (2.0, torch.full((7,), -1), 7)],
)
def test_both_fields_are_evaluated_in_one_batch_and_only_where_both_matter(
    guidance: float, label: Tensor, rows: int
) -> None:
    inner = Shifted()
    Guided(field=inner, label=label, guidance=guidance).velocity(torch.tensor(0.3), states())
    assert inner.asked == [rows]


@pytest.mark.parametrize("network", ["mlp", "unet"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_guided_network_is_the_combination_of_its_two_fields(kind: str, network: str) -> None:
    inner, x, t = conditional_network(kind, network=network), states(), torch.linspace(0, 0.9, 7)
    labelled = inner.given(LABEL, 1.0)
    none = inner.given(torch.full((7,), -1), 3.0)
    for guidance in (0.0, 0.5, 3.0):
        field = inner.given(LABEL, guidance)
        for of, first, second, plain in (
            (field.velocity, none.velocity, labelled.velocity, inner.velocity),
            (field.denoiser, none.denoiser, labelled.denoiser, inner.denoiser),
        ):
            assert torch.equal(first(t, x), plain(t, x))
            expected = first(t, x) + guidance * (second(t, x) - first(t, x))
            torch.testing.assert_close(of(t, x), expected, rtol=1e-5, atol=1e-4)


def test_a_solver_takes_a_guided_field_and_each_row_follows_its_own_label() -> None:
    inner, x, grid = conditional_network("linear"), states(), time_grid("uniform", steps=4, stop=0.9)
    together = solve(inner.given(LABEL, 2.0), x, grid, solver="euler", interpolant=Interpolant("linear"))
    for i in range(7):
        field = inner.given(LABEL[i : i + 1], 2.0)
        alone = solve(field, x[i : i + 1], grid, solver="euler", interpolant=Interpolant("linear"))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)
    apart = (together[:, -1] - solve(inner, x, grid, solver="euler", interpolant=Interpolant("linear"))[:, -1]).abs()
    assert (apart.flatten(1).amax(1) > 1e-2).tolist() == (LABEL >= 0).tolist()
