"""How fast a field changes in space: its Lipschitz constant at given points, from values of the field alone."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

ITERATIONS = 6  # of the power method; more moved the largest constants of trained fields by less than a percent
_SPACING = {torch.float32: 1e-3, torch.float64: 1e-5}  # between two points, root mean square a coordinate


Field = Callable[[Tensor], Tensor]
Adjoint = Callable[[Tensor, Tensor], Tensor]


def local_lipschitz(
    field: Field, x: Tensor, *, seed: int, adjoint: Adjoint | None = None, iterations: int = ITERATIONS
) -> Tensor:
    """Give the largest ||f(x + e u) - f(x - e u)|| / 2 e over the unit directions u that are tried, ``[n]`` float64.

    The first direction of each point is random, each next one the image J' J u of the last under the Jacobian and its
    transpose: the power method for the norm of J. What is found is a lower bound in any case. Exact velocities, those
    of a kernel among them, have a symmetric Jacobian (a multiple of the identity and of a covariance) and need no
    adjoint. Central differences ask for values of the field alone: a network, a sum over data or an oracle.

    Args:
        field: maps ``[n, *dim]`` to ``[n, *dim]``, row by row.
        x: points, ``[n, *dim]`` float32 or float64.
        seed: of the first directions.
        adjoint: maps points and directions to J' u, ``[n, *dim]``; None: J is symmetric.
        iterations: directions tried at each point; two values of the field each.
    """
    spacing = _SPACING[x.dtype] * math.sqrt(x[0].numel())
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
    largest = torch.zeros(len(x), dtype=torch.float64)
    with torch.no_grad():
        for _ in range(iterations):
            direction = direction / _norm(direction).clamp_min(torch.finfo(x.dtype).tiny)
            image = (field(x + spacing * direction) - field(x - spacing * direction)) / (2 * spacing)
            largest = torch.maximum(largest, _norm(image).flatten().cpu().to(torch.float64))
            direction = image if adjoint is None else adjoint(x, image)
    return largest


def adjoint_of(field: Field) -> Adjoint:
    """Give the transposed Jacobian of a field that automatic differentiation can follow."""

    def adjoint(x: Tensor, direction: Tensor) -> Tensor:
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(field(point), point, direction)
        return torch.as_tensor(found)

    return adjoint


def _norm(x: Tensor) -> Tensor:
    """Give ||x_i|| in a shape that divides ``x [n, *dim]``."""
    return torch.as_tensor(torch.linalg.vector_norm(x.flatten(1), dim=1)).reshape(-1, *[1] * (x.ndim - 1))
