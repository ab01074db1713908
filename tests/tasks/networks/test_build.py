"""Networks from specs: weights that depend on the seed alone, and a warm start that changes nothing."""

import pytest
import torch
from torch import Tensor, nn

from tasks.networks.build import build_backbone, build_denoiser, build_generator, warm_start
from tasks.networks.denoiser import Denoiser
from tasks.networks.generator import Generator
from tasks.specs import NETWORK_KINDS, NetworkSpec
from tasks.transport.grid import time_grid
from tasks.transport.interpolant import Interpolant
from tasks.transport.solver import solve

KINDS = ("linear", "foellmer", "trigonometric", "vp")
SPEC = NetworkSpec(width=16, depth=2, fourier=5)
DIM = (3,)


def weights_of(module: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in module.state_dict().values()])


def trained_denoiser(kind: str, spec: NetworkSpec = SPEC) -> Denoiser:
    denoiser = build_denoiser(spec, DIM, seed=1, interpolant=kind, data_std=0.8)
    rng = torch.Generator().manual_seed(1)
    for parameter in denoiser.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=rng)
    return denoiser.requires_grad_(False)


def fresh_generator(kind: str, spec: NetworkSpec = SPEC) -> Generator:
    return build_generator(spec, DIM, seed=2, interpolant=kind, data_std=0.8)


@pytest.mark.parametrize("two_times", [False, True])
@pytest.mark.parametrize("kind", NETWORK_KINDS)
def test_weights_depend_on_the_seed_alone(kind: str, two_times: bool) -> None:
    spec = NetworkSpec(kind=kind, width=16, depth=2, fourier=5)
    torch.manual_seed(0)
    first = weights_of(build_backbone(spec, DIM, seed=7, two_times=two_times))
    torch.manual_seed(1)
    torch.rand(3)
    again = weights_of(build_backbone(spec, DIM, seed=7, two_times=two_times))
    other = weights_of(build_backbone(spec, DIM, seed=8, two_times=two_times))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    build_backbone(SPEC, DIM, seed=7, two_times=True)
    assert torch.equal(torch.rand(5), expected)


def test_the_random_frequencies_are_kept_with_the_weights() -> None:
    """They are drawn, not learned, so a model that loses them is another model."""
    stored = trained_denoiser("linear").state_dict()
    assert stored["backbone.frequencies"].shape == (3, 5)
    reloaded = build_denoiser(SPEC, DIM, seed=99, interpolant="linear", data_std=0.8)
    reloaded.load_state_dict(stored)
    t, x = torch.tensor(0.4), torch.ones(2, 3)
    assert torch.equal(reloaded.velocity(t, x), trained_denoiser("linear").velocity(t, x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_start_is_exactly_the_step_of_the_denoiser(kind: str) -> None:
    """Bit for bit what the exponential solver does with that denoiser, whatever s is."""
    denoiser, generator = trained_denoiser(kind), fresh_generator(kind)
    warm_start(generator, denoiser)
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(2))
    grid = time_grid("uniform", steps=4, stop=1.0)
    with torch.no_grad():
        for k in range(4):
            for later in range(k + 1, 5):
                t, s = grid[k], grid[later]
                step = torch.stack([t, s])
                expected = solve(denoiser, x, step, solver="exponential", interpolant=Interpolant(kind))[:, 1]
                assert torch.equal(generator(t, s, x), expected)


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
