"""Time grids 0 = t_0 < ... < t_K = T of a solver."""

import torch
from torch import Tensor

GRIDS = ("uniform", "karras")


def time_grid(kind: str, *, steps: int, stop: float, rho: float = 7.0) -> Tensor:
    """Give the ``steps + 1`` ascending times of a grid on [0, stop], float64.

    Args:
        kind: ``uniform``: t_k = k T / K. ``karras``: the remaining time u = 1 - t falls from 1 to 1 - T evenly in
            u^(1 / rho), so that steps shorten toward the data for rho > 1 (Karras et al., arXiv 2206.00364, eq. 5);
            rho = 1 is uniform.
        steps: K, at least 1.
        stop: T in (0, 1].
        rho: how strongly ``karras`` shortens the last steps; positive.

    Raises:
        ValueError: an argument is outside its range, or two times of ``karras`` are equal in float64.
    """
    if steps < 1:
        raise ValueError(f"trajectories.steps must be at least 1, got {steps}")
    if not 0 < stop <= 1:
        raise ValueError(f"trajectories.stop must be in (0, 1], got {stop}")
    share = torch.arange(steps + 1, dtype=torch.float64) / steps
    match kind:
        case "uniform":
            return share * stop
        case "karras":
            return _karras(share, stop=stop, rho=rho)
    raise ValueError(f"trajectories.grid must be one of {', '.join(GRIDS)}, got {kind!r}")


def halved(grid: Tensor) -> Tensor:
    """Give a grid ``[times]`` with the middle of each step between its times: the same grid with twice the steps."""
    return torch.cat([grid, (grid[1:] + grid[:-1]) / 2]).sort().values


def _karras(share: Tensor, *, stop: float, rho: float) -> Tensor:
    if not rho > 0:
        raise ValueError(f"trajectories.rho must be positive, got {rho:g}")
    end = (1 - stop) ** (1 / rho)
    times = 1 - torch.pow(1 + share * (end - 1), rho)
    times[0], times[-1] = 0.0, stop  # rounding must not move the ends
    if not (times.diff() > 0).all():
        raise ValueError(
            f"trajectories.rho must leave the times distinct, got {rho:g} with {len(share) - 1} steps to {stop:g}"
        )
    return times
