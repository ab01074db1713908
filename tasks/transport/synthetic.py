"""Synthetic targets: in the plane, Gaussian, on spheres; each as draws that are a function of (seed, row)."""

import math

import torch
from torch import Tensor

from tasks.specs import TargetSpec
from tasks.transport.noise import EMBEDDING, standard_normal, uniform
from tasks.transport.targets import Gaussian, GaussianMixture

MOON_NOISE = 0.05
ROLL_NOISE = 0.1
RING_NOISE = 0.05
MIXTURE_RADIUS = 4.0


def oracle_target(spec: TargetSpec) -> GaussianMixture | None:
    """Give the closed-form law behind a ``gaussian`` or ``mixture`` spec, in data units; None for all other kinds."""
    match spec.kind:
        case "gaussian":
            mean = torch.tensor(spec.mean, dtype=torch.float64)
            std = torch.tensor(spec.std, dtype=torch.float64)
            return GaussianMixture((1.0,), (Gaussian(mean, torch.diag(std**2)),))
        case "mixture":
            angles = 2 * math.pi * torch.arange(spec.components, dtype=torch.float64) / spec.components
            covariance = torch.diag(torch.tensor(spec.std, dtype=torch.float64) ** 2)
            centres = MIXTURE_RADIUS * torch.stack([angles.cos(), angles.sin()], -1)
            return GaussianMixture((1.0,) * spec.components, tuple(Gaussian(centre, covariance) for centre in centres))
    return None


def draw(spec: TargetSpec, start: int, stop: int, *, seed: int, stream: int) -> Tensor:
    """Draw rows ``start <= i < stop`` of a synthetic target, ``[stop - start, dim]`` float64.

    Args:
        spec: the target.
        seed: seed of the endless sample of the target.
        stream: a stream of :mod:`tasks.transport.noise`, so that training data and fresh data never share a row.

    Raises:
        ValueError: the kind is not synthetic.
    """
    if spec.kind == "sphere":
        return _draw_sphere(spec, start, stop, seed=seed, stream=2 * stream + 1)
    law = oracle_target(spec)
    dim = law.dim if law else 2
    u = uniform(seed, start, stop, 4, stream=2 * stream)
    z = standard_normal(seed, start, stop, (dim,), stream=2 * stream + 1)
    if law:
        return law.sample(u[:, 0], z)
    match spec.kind:
        case "moons":
            upper = u[:, 0] < 0.5
            angle = math.pi * u[:, 1]
            x = torch.where(upper, angle.cos(), 1 - angle.cos())
            y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
            return torch.stack([x, y], -1) + MOON_NOISE * z
        case "swiss_roll":
            angle = 1.5 * math.pi * (1 + 2 * u[:, 0])
            return torch.stack([angle * angle.cos(), angle * angle.sin()], -1) / 5 + ROLL_NOISE * z
        case "checkerboard":
            column = (4 * u[:, 0]).floor()
            row = 2 * (2 * u[:, 1]).floor() + column % 2
            return torch.stack([column + u[:, 2], row + u[:, 3]], -1) - 2
        case "rings":
            radius = 1 + (3 * u[:, 0]).floor()
            angle = 2 * math.pi * u[:, 1]
            return radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1) + RING_NOISE * z
    raise ValueError(f"dataset.kind {spec.kind!r} is not a synthetic target")


def _draw_sphere(spec: TargetSpec, start: int, stop: int, *, seed: int, stream: int) -> Tensor:
    """Draw uniformly from the unit sphere, move it into its space, and add the Gaussian."""
    dim, size = len(spec.std), spec.intrinsic + 1
    z = standard_normal(seed, start, stop, (size + dim,), stream=stream)
    x, radius = torch.tensor(spec.std, dtype=torch.float64) * z[:, size:], torch.linalg.vector_norm(z[:, :size], dim=1)
    # not as a matrix product, whose last bits depend on the number of rows
    for coordinate, axis in zip(z[:, :size].T, embedding(size, dim=dim).T, strict=True):
        x = x + (coordinate / radius)[:, None] * axis
    return x


def embedding(size: int, *, dim: int) -> Tensor:
    """Give the isometry of ``size`` into ``dim`` dimensions, ``[dim, size]`` float64: the same in every run.

    A turned one, so that no coordinate is noise alone. Columns are orthonormal; ``dim`` is at least ``size``.
    """
    orthonormal, triangle = torch.linalg.qr(standard_normal(0, 0, dim, (size,), stream=EMBEDDING))
    return torch.as_tensor(orthonormal * triangle.diagonal().sign())  # by itself QR is unique up to these signs
