"""Solvers of the characteristics dx/dt = v(t, x), with t ascending from noise to data.

Each keeps every state of every trajectory: the discrete characteristics that the generator is fitted to.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tasks.transport.field import VelocityField
from tasks.transport.interpolant import Interpolant

Step = Callable[[VelocityField, Interpolant, Tensor, Tensor, Tensor], Tensor]


def _euler(field: VelocityField, interpolant: Interpolant, t: Tensor, s: Tensor, x: Tensor) -> Tensor:
    return x + (s - t) * field.velocity(t, x)


def _exponential(field: VelocityField, interpolant: Interpolant, t: Tensor, s: Tensor, x: Tensor) -> Tensor:
    """Freeze the denoiser over the step (DDIM, first-order DEIS); valid down to alpha(s) = 0."""
    now, then = interpolant.at(t), interpolant.at(s)
    ratio = then.noise / now.noise
    return ratio * x + (then.data - ratio * now.data) * field.denoiser(t, x)


def _heun(field: VelocityField, interpolant: Interpolant, t: Tensor, s: Tensor, x: Tensor) -> Tensor:
    slope = field.velocity(t, x)
    return x + (s - t) / 2 * (slope + field.velocity(s, x + (s - t) * slope))


SOLVERS: dict[str, Step] = {"euler": _euler, "exponential": _exponential, "heun": _heun}
EVALUATIONS_PER_STEP = {"euler": 1, "exponential": 1, "heun": 2}
ORDERS = {"euler": 1, "exponential": 1, "heun": 2}  # p: the error falls like the step to the power p


def solve(
    field: VelocityField,
    x0: Tensor,
    grid: Tensor,
    *,
    solver: str,
    interpolant: Interpolant,
    out: Tensor | None = None,
    kept: Sequence[int] | None = None,
) -> Tensor:
    """Follow trajectories from ``x0`` along ``grid`` and give their states, ``[rows, times, *dim]``.

    Args:
        field: the velocity field.
        x0: states at ``grid[0]``, ``[rows, *dim]``; kept in its own type.
        grid: ascending times ``[times]``, float64 (:func:`tasks.transport.grid.time_grid`).
        solver: ``euler``, ``exponential`` (equals euler for the linear interpolant) or ``heun`` (second order, two
            evaluations a step, the last at ``grid[-1]``: with a velocity that is singular at t = 1 stop earlier).
        interpolant: the interpolant of the field.
        out: filled and given back when passed, so that a caller can re-use its buffer; it may be of another type.
        kept: ascending positions in ``grid`` of the states that are given; None: all.

    Raises:
        ValueError: the solver is unknown.
    """
    if solver not in SOLVERS:
        raise ValueError(f"trajectories.solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    step = SOLVERS[solver]
    place = {k: slot for slot, k in enumerate(range(len(grid)) if kept is None else kept)}
    states = x0.new_empty((x0.shape[0], len(place), *x0.shape[1:])) if out is None else out
    x = x0
    with torch.no_grad():
        for k in range(len(grid)):
            if k > 0:
                x = step(field, interpolant, grid[k - 1], grid[k], x)
            if k in place:
                states[:, place[k]] = x
    return states
