"""Networks from specs: weights that depend on the seed alone, and a warm start that changes nothing."""

import json
from dataclasses import asdict
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from tasks.networks.build import (
    build_backbone,
    build_denoiser,
    build_generator,
    network_spec_from,
    require_fitting,
    warm_start,
)
from tasks.networks.denoiser import Denoiser
from tasks.networks.generator import Generator
from tasks.specs import GENERATOR_FORMS, NETWORK_KINDS, NetworkSpec
from tasks.transport.grid import time_grid
from tasks.transport.interpolant import Interpolant
from tasks.transport.solver import solve

KINDS = ("linear", "foellmer", "trigonometric", "vp")
SPEC = NetworkSpec(width=16, depth=2, fourier=5)
UNET = NetworkSpec(kind="unet", channels=4, multipliers=(1, 2), blocks=1, attention=(2,))
BOUNDED = NetworkSpec(kind="unet", channels=4, multipliers=(1, 2), blocks=1, attention=(4,), spectral=True)
DIM = (3,)
IMAGE = (1, 4, 4)
FITTING = [(SPEC, DIM), (UNET, IMAGE), (BOUNDED, IMAGE)]


def weights_of(module: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in module.state_dict().values()])


def trained_denoiser(kind: str, spec: NetworkSpec = SPEC, dim: tuple[int, ...] = DIM, *, classes: int = 0) -> Denoiser:
    denoiser = build_denoiser(spec, dim, seed=1, interpolant=kind, data_std=0.8, classes=classes)
    rng = torch.Generator().manual_seed(1)
    for parameter in denoiser.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=rng)
    return denoiser.requires_grad_(False).eval()


def fresh_generator(
    kind: str, spec: NetworkSpec = SPEC, dim: tuple[int, ...] = DIM, *, classes: int = 0, form: str = "exponential"
) -> Generator:
    return build_generator(spec, dim, seed=2, interpolant=kind, data_std=0.8, classes=classes, form=form).eval()


def test_every_kind_is_tried_here() -> None:
    assert {spec.kind for spec, _ in FITTING} == set(NETWORK_KINDS)


@pytest.mark.parametrize("two_times", [False, True])
@pytest.mark.parametrize(("spec", "dim"), FITTING)
def test_weights_depend_on_the_seed_alone(spec: NetworkSpec, dim: tuple[int, ...], two_times: bool) -> None:
    torch.manual_seed(0)
    first = weights_of(build_backbone(spec, dim, seed=7, two_times=two_times, classes=2))
    torch.manual_seed(1)
    torch.rand(3)
    again = weights_of(build_backbone(spec, dim, seed=7, two_times=two_times, classes=2))
    other = weights_of(build_backbone(spec, dim, seed=8, two_times=two_times, classes=2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("spec", "dim"), FITTING)
def test_building_leaves_the_global_generator_alone(spec: NetworkSpec, dim: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    build_backbone(spec, dim, seed=7, two_times=True, classes=2)
    assert torch.equal(torch.rand(5), expected)


@pytest.mark.parametrize(("spec", "dim"), FITTING)
def test_classes_add_one_table_and_change_no_other_weight(spec: NetworkSpec, dim: tuple[int, ...]) -> None:
    without = build_backbone(spec, dim, seed=7, two_times=True).state_dict()
    with_labels = build_backbone(spec, dim, seed=7, two_times=True, classes=5).state_dict()
    assert with_labels.keys() - without.keys() == {"labels.table.weight"}
    assert len(with_labels["labels.table.weight"]) == 6
    names = [name for name in without if "directions" not in name]  # of a norm's search, drawn after the weights
    assert all(torch.equal(without[name], with_labels[name]) for name in names)


@pytest.mark.parametrize(("spec", "dim"), FITTING)
def test_a_spec_survives_json(spec: NetworkSpec, dim: tuple[int, ...]) -> None:
    assert network_spec_from(json.loads(json.dumps(asdict(spec)))) == spec


def test_a_spec_stored_before_a_key_existed_has_its_default() -> None:
    assert network_spec_from({"kind": "mlp", "width": 8}) == NetworkSpec(width=8)


@pytest.mark.parametrize(
    ("changes", "dim", "message"),
    [
        ({}, (2,), r"network\.kind = unet needs images .*\[channels, height, width\], got states of shape \[2\]"),
        ({}, (28, 28), r"network\.kind = unet needs images .*, got states of shape \[28, 28\]"),
        ({}, (1, 7, 7), r"network\.kind = unet with 3 levels: sides must be multiples of 4, got 7 x 7"),
        ({}, (1, 8, 6), r"sides must be multiples of 4, got 8 x 6"),
        ({"multipliers": (1, 2, 2, 2)}, (1, 28, 28), r"with 4 levels: sides must be multiples of 8, got 28 x 28"),
        ({"attention": (16,)}, (1, 28, 28), r"network\.attention .* levels' sides \[28, 14, 7\], got 16"),
        ({"attention": (8, 4, 2)}, (3, 16, 8), r"network\.attention .* \[16, 8, 4\], got 2"),
    ],
)
def test_what_a_network_cannot_take_is_refused_in_one_line(
    changes: dict[str, tuple[int, ...]], dim: tuple[int, ...], message: str
) -> None:
    spec = NetworkSpec(kind="unet", **changes)  # type: ignore[arg-type]
    for refuse in (lambda: require_fitting(spec, dim), lambda: build_backbone(spec, dim, seed=0, two_times=False)):
        with pytest.raises(ValueError, match=message) as caught:
            refuse()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dim", [(2,), (1, 7, 7), (3, 5)])
def test_a_perceptron_takes_every_shape(dim: tuple[int, ...]) -> None:
    require_fitting(NetworkSpec(attention=(99,)), dim)


@pytest.mark.parametrize("dim", [(1, 28, 28), (3, 32, 32), (1, 4, 12)])
def test_a_unet_takes_images_whose_sides_it_can_halve(dim: tuple[int, ...]) -> None:
    require_fitting(NetworkSpec(kind="unet", attention=(max(dim) // 4,)), dim)


def test_the_random_frequencies_are_kept_with_the_weights() -> None:
    """They are drawn, not learned, so a model that loses them is another model."""
    stored = trained_denoiser("linear").state_dict()
    assert stored["backbone.frequencies"].shape == (3, 5)
    reloaded = build_denoiser(SPEC, DIM, seed=99, interpolant="linear", data_std=0.8)
    reloaded.load_state_dict(stored)
    t, x = torch.tensor(0.4), torch.ones(2, 3)
    assert torch.equal(reloaded.velocity(t, x), trained_denoiser("linear").velocity(t, x))


@pytest.mark.parametrize(
    ("kind", "spec", "dim"), [*((kind, SPEC, DIM) for kind in KINDS), *(("linear", *other) for other in FITTING[1:])]
)
@pytest.mark.parametrize("form", GENERATOR_FORMS)
def test_a_warm_start_is_exactly_the_step_of_the_denoiser(
    kind: str, spec: NetworkSpec, dim: tuple[int, ...], form: str
) -> None:
    """Bit for bit what the solver of that name does with that denoiser, whatever s is."""
    denoiser, generator = trained_denoiser(kind, spec, dim), fresh_generator(kind, spec, dim, form=form)
    warm_start(generator, denoiser)
    x = torch.randn(9, *dim, generator=torch.Generator().manual_seed(2))
    grid = time_grid("uniform", steps=3, stop=1.0)
    with torch.no_grad():
        for k, later in combinations(range(4), 2):
            t, s = grid[k], grid[later]
            step = torch.stack([t, s])
            expected = solve(denoiser, x, step, solver=form, interpolant=Interpolant(kind))[:, 1]
            assert torch.equal(generator(t, s, x), expected)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_guided_warm_start_is_exactly_the_guided_step(guidance: float) -> None:
    """Both forms are affine in the field, so guiding the map, as sampling does, is stepping with the guided field."""
    denoiser, label = trained_denoiser("foellmer", classes=3), torch.tensor([0, 2, -1, 1])
    x, t, s = torch.randn(4, *DIM, generator=torch.Generator().manual_seed(2)), torch.tensor(0.2), torch.tensor(0.9)
    for form in GENERATOR_FORMS:
        generator = fresh_generator("foellmer", classes=3, form=form)
        warm_start(generator, denoiser)
        field = denoiser.given(label, guidance)
        expected = solve(field, x, torch.stack([t, s]), solver=form, interpolant=Interpolant("foellmer"))[:, 1]
        with torch.no_grad():
            none = generator(t, s, x)
            guided = none + guidance * (generator(t, s, x, label) - none)
        torch.testing.assert_close(guided, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("spec", "dim"), FITTING)
def test_a_warm_start_takes_the_labels_over(spec: NetworkSpec, dim: tuple[int, ...]) -> None:
    """At s = 1 the generator is its denoiser."""
    denoiser = trained_denoiser("linear", spec, dim, classes=3)
    generator = fresh_generator("linear", spec, dim, classes=3)
    warm_start(generator, denoiser)
    x, label = torch.randn(4, *dim, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 2, -1, 1])
    t, end = torch.tensor(0.4), torch.tensor(1.0)
    with torch.no_grad():
        assert torch.equal(generator(t, end, x, label), denoiser(t, x, label))
    with pytest.raises(ValueError, match=r"velocity's network sizes, but backbone\.labels\.table\.weight differs"):
        warm_start(fresh_generator("linear", spec, dim, classes=4), denoiser)


def test_a_warm_started_generator_still_learns_its_second_time() -> None:
    generator = fresh_generator("linear")
    warm_start(generator, trained_denoiser("linear"))
    generator(torch.tensor(0.1), torch.tensor(0.9), torch.ones(2, 3)).sum().backward()
    output = generator.get_parameter("backbone.second_time.output.weight")
    assert output.grad is not None
    assert output.grad.abs().max().item() > 0


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec(width=8, depth=2, fourier=5),
        NetworkSpec(width=16, depth=1, fourier=5),
        NetworkSpec(width=16, depth=3, fourier=5),
        NetworkSpec(width=16, depth=2, fourier=4),
    ],
)
def test_a_warm_start_from_another_size_is_refused(spec: NetworkSpec) -> None:
    generator = fresh_generator("linear", spec)
    before = weights_of(generator)
    with pytest.raises(ValueError, match=r"generator\.warm_start needs the velocity's network sizes, but backbone\."):
        warm_start(generator, trained_denoiser("linear"))
    assert torch.equal(weights_of(generator), before)
