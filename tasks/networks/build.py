"""Networks from their specs: the one place where a kind of backbone is chosen."""

import torch
from torch import nn

from tasks.networks.denoiser import Denoiser
from tasks.networks.generator import Generator
from tasks.networks.mlp import Mlp
from tasks.specs import NetworkSpec
from tasks.transport.interpolant import Interpolant


def build_backbone(spec: NetworkSpec, dim: tuple[int, ...], *, seed: int, two_times: bool) -> nn.Module:
    """Give a freshly initialised backbone whose weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match spec.kind:
            case "mlp":
                return Mlp(
                    dim,
                    width=spec.width,
                    depth=spec.depth,
                    fourier=spec.fourier,
                    fourier_scale=spec.fourier_scale,
                    two_times=two_times,
                )
    raise ValueError(f"network.kind must be mlp, got {spec.kind!r}")


def build_denoiser(
    spec: NetworkSpec, dim: tuple[int, ...], *, seed: int, interpolant: str, data_std: float
) -> Denoiser:
    """Give the velocity network for states of shape ``dim``."""
    backbone = build_backbone(spec, dim, seed=seed, two_times=False)
    return Denoiser(backbone, interpolant=Interpolant(interpolant), data_std=data_std)


def build_generator(
    spec: NetworkSpec, dim: tuple[int, ...], *, seed: int, interpolant: str, data_std: float
) -> Generator:
    """Give the generator for states of shape ``dim``."""
    backbone = build_backbone(spec, dim, seed=seed, two_times=True)
    return Generator(backbone, interpolant=Interpolant(interpolant), data_std=data_std)


def warm_start(generator: Generator, denoiser: Denoiser) -> None:
    """Copy the denoiser's weights into a fresh generator, whose second-time branch stays at zero.

    Raises:
        ValueError: the two backbones differ in more than the second time.
    """
    weights = denoiser.state_dict()
    shapes = {name: value.shape for name, value in weights.items()}
    mine = {name: value.shape for name, value in generator.state_dict().items() if ".second_time." not in name}
    misfit = sorted(name for name in shapes.keys() | mine.keys() if shapes.get(name) != mine.get(name))
    if misfit:
        raise ValueError(f"generator.warm_start needs the velocity's network sizes, but {misfit[0]} differs")
    generator.load_state_dict(weights, strict=False)
