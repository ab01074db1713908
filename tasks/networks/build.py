"""Networks from their specs: the one place where a kind of backbone is chosen."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tasks.networks.denoiser import Denoiser
from tasks.networks.generator import Generator
from tasks.networks.mlp import Mlp
from tasks.networks.spectral import bound_norms
from tasks.networks.unet import UNet, level_sides
from tasks.specs import NETWORK_KINDS, NetworkSpec
from tasks.transport.interpolant import Interpolant

Network = TypeVar("Network", bound=nn.Module)


def build_backbone(
    spec: NetworkSpec, dim: tuple[int, ...], *, seed: int, two_times: bool, classes: int = 0
) -> nn.Module:
    """Give a freshly initialised backbone whose weights depend on ``seed`` alone.

    Raises:
        ValueError: states of shape ``dim`` do not fit the spec.
    """
    require_fitting(spec, dim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = _build(spec, dim, two_times=two_times, classes=classes)
        if spec.spectral:
            bound_norms(backbone, dim)
        return backbone


def build_denoiser(
    spec: NetworkSpec, dim: tuple[int, ...], *, seed: int, interpolant: str, data_std: float, classes: int = 0
) -> Denoiser:
    """Give the velocity network for states of shape ``dim``."""
    backbone = build_backbone(spec, dim, seed=seed, two_times=False, classes=classes)
    return Denoiser(backbone, interpolant=Interpolant(interpolant), data_std=data_std)


def build_generator(
    spec: NetworkSpec,
    dim: tuple[int, ...],
    *,
    seed: int,
    interpolant: str,
    data_std: float,
    classes: int = 0,
    form: str = "exponential",
) -> Generator:
    """Give the generator for states of shape ``dim``."""
    backbone = build_backbone(spec, dim, seed=seed, two_times=True, classes=classes)
    return Generator(backbone, interpolant=Interpolant(interpolant), data_std=data_std, form=form)


def rebuild(build: Callable[..., Network], spec: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Network:
    """Give the network of a published model by :func:`build_denoiser` or :func:`build_generator`.

    Args:
        build: one of the two.
        spec: the model's specification; one that was published before there were classes says nothing of them.
        weights: of the model.
    """
    network = build(
        network_spec_from(spec["network"]),
        tuple(spec["dim"]),
        seed=0,
        interpolant=spec["interpolant"],
        data_std=spec["data_std"],
        classes=spec.get("classes", 0),
    )
    network.load_state_dict(weights)
    return network


def network_spec_from(stored: Mapping[str, Any]) -> NetworkSpec:
    """Give the spec that was written as JSON, which has lists for tuples; absent keys have their defaults."""
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()}
    return NetworkSpec(**values)


def require_fitting(spec: NetworkSpec, dim: tuple[int, ...]) -> None:
    """Raise unless a network of this spec can take states of shape ``dim``.

    Raises:
        ValueError: a U-Net is asked for vectors, sides that it cannot halve, or attention where it has no level.
    """
    if spec.kind != "unet":
        return
    if len(dim) != 3:
        raise ValueError(
            f"network.kind = unet needs images of shape [channels, height, width], got states of shape {list(dim)}; "
            "take mlp"
        )
    multiple, (height, width) = 2 ** (len(spec.multipliers) - 1), dim[1:]
    if height % multiple or width % multiple:
        raise ValueError(
            f"network.kind = unet with {len(spec.multipliers)} levels: sides must be multiples of {multiple}, got "
            f"{height} x {width}; take fewer network.multipliers"
        )
    sides = level_sides(spec, dim)
    absent = [side for side in spec.attention if side not in sides]
    if absent:
        raise ValueError(f"network.attention must be among the levels' sides {list(sides)}, got {absent[0]}")


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


def _build(spec: NetworkSpec, dim: tuple[int, ...], *, two_times: bool, classes: int) -> nn.Module:
    match spec.kind:
        case "mlp":
            return Mlp(
                dim,
                width=spec.width,
                depth=spec.depth,
                fourier=spec.fourier,
                fourier_scale=spec.fourier_scale,
                two_times=two_times,
                classes=classes,
            )
        case "unet":
            return UNet(dim, spec, two_times=two_times, classes=classes)
    raise ValueError(f"network.kind must be one of {', '.join(NETWORK_KINDS)}, got {spec.kind!r}")
