"""Honest measures of a velocity: its loss beside the least that is possible, its error, its Lipschitz constant.

All are in standardised units and a dimension, over pairs that the velocity was not fitted to: fresh draws where the
target can be drawn from, else stored rows with noise that no training saw.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from storage.chunks import Shard
from storage.data import DataStore
from storage.trajectories import TrajectoryStore
from tasks.evaluation.distance import Distance
from tasks.evaluation.lipschitz import adjoint_of, local_lipschitz
from tasks.rows import RowReader, take_labels
from tasks.simulation import given_labels, row_labels
from tasks.specs import SYNTHETIC_KINDS, DatasetSpec, TargetSpec
from tasks.training.device import CPU, block_rows
from tasks.transport.field import ConditionalField, VelocityField
from tasks.transport.interpolant import Interpolant, interpolate
from tasks.transport.losses import squared_error, velocity_matching_loss
from tasks.transport.noise import FRESH_DATA, MEASURES, standard_normal
from tasks.transport.synthetic import draw, oracle_target
from tasks.transport.targets import GaussianMixture, OracleField

_SINGULAR_STOP = 0.999  # where W is infinite at the end, times are measured up to here
_HALVINGS, _NODES = 52, 20  # of the quadrature over time
_PATHS = 128  # trajectories along which the Lipschitz constant is taken, fewer for many dimensions
_TIMES = 8  # of each
_GRADIENT_COST = 16  # activations that are kept for a gradient, in units of those that an evaluation needs


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Which pairs are measured: ``count`` of them, times one in each equal part of [0, stop)."""

    data: DataStore
    target: TargetSpec | None  # None: stored rows
    count: int
    stop: float
    seed: int
    is_labelled: bool  # whether the velocity is told the classes of stored rows

    @property
    def description(self) -> str:
        """What the pairs are made of."""
        return "fresh draws of the target" if self.target else "stored rows with fresh noise"


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    t: Tensor  # [n] float32
    x0: Tensor  # [n, *dim] float32
    x1: Tensor  # [n, *dim] float32
    label: Tensor | None  # [n]


def held_out(
    dataset: DatasetSpec,
    data: DataStore,
    *,
    interpolant: Interpolant,
    stop: float,
    samples: int,
    seed: int,
    classes: int,
) -> HeldOut:
    """Choose the pairs: ten times ``samples``, fewer for images, whose losses vary less and cost more.

    The velocity and its loss are infinite at t = 1 for ``foellmer`` and ``vp``; there times end a thousandth earlier.
    """
    is_drawn = dataset.kind in SYNTHETIC_KINDS
    count = samples * max(1, min(10, 1280 // math.prod(data.dim)))
    is_singular = not math.isfinite(float(interpolant.at(torch.tensor(stop, dtype=torch.float64)).wronskian))
    return HeldOut(
        data=data,
        target=dataset.target() if is_drawn else None,
        count=count if is_drawn else min(count, data.rows),
        stop=_SINGULAR_STOP if is_singular else stop,
        seed=seed,
        is_labelled=classes > 0 and not is_drawn,
    )


def exact_target(target: TargetSpec | None, data: DataStore) -> GaussianMixture | None:
    """Give the law of the data in standardised units where it is known exactly; None elsewhere."""
    law = oracle_target(target) if target else None
    if law is None:
        return None
    shift, scale = (torch.from_numpy(x) for x in (data.standardisation.mean, data.standardisation.scale))
    return law.affine(shift, scale)


def measure_velocity(
    field: VelocityField, pairs: HeldOut, *, interpolant: Interpolant, device: torch.device
) -> list[Distance]:
    """Give ``velocity_loss`` and, where the exact velocity is known, ``velocity_floor`` and ``velocity_error``.

    The loss is the mean of ||alpha' x0 + beta' x1 - v(t, x_t)||^2 / d; the floor is its value at the exact velocity, in
    closed form for a Gaussian (standard error 0), over the same pairs for a mixture. The error is the root of the mean
    of ||v - v_exact||^2 / d. Times are stratified, for which the standard errors are a little too large.
    """
    law = exact_target(pairs.target, pairs.data)
    oracle = OracleField(interpolant, law) if law else None
    size = math.prod(pairs.data.dim)
    rows = [_row_measures(field, oracle, block, interpolant=interpolant, device=device) for block in _blocks(pairs)]
    loss, *known = (torch.cat(parts).numpy() / size for parts in zip(*rows, strict=True))
    found = [_mean("velocity_loss", loss)]
    if law is not None:
        floor, gap = known
        found.append(_floor(law, floor, interpolant=interpolant, stop=pairs.stop))
        found.append(root_mean_square("velocity_error", gap))
    return found


def measure_excess_loss(
    field: VelocityField, pairs: HeldOut, law: GaussianMixture, *, interpolant: Interpolant, device: torch.device
) -> Distance:
    """Give by how much the loss exceeds that of the exact velocity over the same pairs, a coordinate.

    On fresh draws this is the squared error of the velocity, but for a cross term of mean 0. On rows that a velocity
    was fitted to it is less, or negative, by what it learnt of their noise.
    """
    oracle, size = OracleField(interpolant, law), math.prod(pairs.data.dim)
    rows = [_row_measures(field, oracle, block, interpolant=interpolant, device=device) for block in _blocks(pairs)]
    loss, floor, _ = (torch.cat(parts).numpy() / size for parts in zip(*rows, strict=True))
    return _mean("excess_loss", loss - floor)


def _floor(law: GaussianMixture, rows: np.ndarray, *, interpolant: Interpolant, stop: float) -> Distance:
    if len(law.components) > 1:
        return _mean("velocity_floor", rows)
    value = gaussian_floor(law.components[0].covariance, interpolant=interpolant, stop=stop)
    return Distance(name="velocity_floor", value=value, standard_error=0.0, n=len(rows))


def gaussian_floor(covariance: Tensor, *, interpolant: Interpolant, stop: float) -> float:
    """Give the mean over t in [0, stop] of tr(S W^2 (alpha^2 + beta^2 S)^-1) / d, the least loss for N(m, S).

    Gauss-Legendre on panels that halve toward both ends, for the integrand has poles near t = 0 for large S and near
    t = 1 for small; exact to about 1e-10. S = I gives pi/2 for the linear interpolant and stop = 1.

    Args:
        covariance: S, ``[d, d]`` float64.
        interpolant: of the flow.
        stop: T; below 1 for ``foellmer`` and ``vp``, whose floor has no bound.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    halvings = 0.5 ** np.arange(1, _HALVINGS)
    edges = stop * np.concatenate([[0.0], halvings[::-1], 1 - halvings[1:], [1.0]])
    middles, halves = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    c = interpolant.at(torch.from_numpy(middles[:, None] + halves[:, None] * nodes))  # [panels, nodes]
    values = torch.linalg.eigvalsh(covariance)
    density = c.wronskian[..., None] ** 2 * values / (c.noise[..., None] ** 2 + c.data[..., None] ** 2 * values)
    return float((halves[:, None] * weights * density.mean(-1).numpy()).sum() / stop)


def _blocks(pairs: HeldOut) -> Iterator[_Pairs]:
    """Give the pairs a block at a time, so that images of any number fit."""
    data, seed = pairs.data, pairs.seed
    order = np.random.default_rng([seed, MEASURES]).permutation(data.rows)[: pairs.count]
    shares = np.random.default_rng([seed, MEASURES, 1])
    latest = np.nextafter(np.float32(pairs.stop), np.float32(0))
    reader, size = RowReader(data), block_rows(data.dim)
    for start in range(0, pairs.count, size):
        stop = min(start + size, pairs.count)
        t = pairs.stop * (np.arange(start, stop) + shares.random(stop - start)) / pairs.count
        if pairs.target:
            fresh = draw(pairs.target, start, stop, seed=seed, stream=FRESH_DATA).numpy()
            x1 = data.standardisation.to_standard(fresh).astype(np.float32)
        else:
            x1 = reader.take(order[start:stop])
        label = take_labels(data, order[start:stop]) if pairs.is_labelled else None
        yield _Pairs(
            t=torch.from_numpy(np.minimum(t, latest).astype(np.float32)),
            x0=standard_normal(seed, start, stop, data.dim, stream=MEASURES).to(torch.float32),
            x1=torch.from_numpy(x1),
            label=None if label is None else torch.from_numpy(label),
        )


def _row_measures(
    field: VelocityField, oracle: OracleField | None, pairs: _Pairs, *, interpolant: Interpolant, device: torch.device
) -> tuple[Tensor, ...]:
    """Give each row's loss, floor and squared error, ``[n]`` float64 each; the loss alone without an oracle."""
    t, x0, x1 = pairs.t, pairs.x0, pairs.x1
    x_t = interpolate(interpolant, t, x0, x1)
    with torch.no_grad():
        v = _velocity(field, t, x_t, label=pairs.label, device=device)
        losses = [velocity_matching_loss(lambda _, __: v, interpolant=interpolant, t=t, x0=x0, x1=x1)]
        if oracle is not None:
            exact = oracle.velocity(t, x_t)
            losses.append(velocity_matching_loss(lambda _, __: exact, interpolant=interpolant, t=t, x0=x0, x1=x1))
            losses.append(squared_error(v, exact))
    return tuple(loss.to(torch.float64) for loss in losses)


def _velocity(field: VelocityField, t: Tensor, x: Tensor, *, label: Tensor | None, device: torch.device) -> Tensor:
    """Give the velocity on the CPU; a network computes it on ``device``."""
    place = device if isinstance(field, nn.Module) else CPU
    given = field if label is None else cast(ConditionalField, field).given(label.to(place), 1.0)
    return given.velocity(t.to(place), x.to(place)).cpu()


def measure_lipschitz(
    field: VelocityField, store: TrajectoryStore, *, count: int, seed: int, device: torch.device
) -> list[Distance]:
    """Give ``lipschitz``, the largest constant in x found along stored trajectories, and ``lipschitz_mean``.

    Taken at up to 8 of the times that the solver asked for and, of the first ``count`` trajectories, at up to 128: a
    maximum over points, so more points can only raise it. Its standard error is the jackknife's over trajectories.
    """
    plan = store.plan
    paths = min(count, max(16, min(_PATHS, 12_800 // math.prod(plan.dim))))
    rows = max(4, block_rows(plan.dim) // _GRADIENT_COST)
    constants = np.concatenate(
        [
            _constants(field, store, Shard(start, min(start + rows, paths)), seed=seed, device=device)
            for start in range(0, paths, rows)
        ]
    )
    mean, largest = _mean("lipschitz_mean", constants.mean(1)), np.sort(constants.max(1))
    gap = largest[-1] - largest[-2] if paths > 1 else 0.0
    error = float(gap * math.sqrt((paths - 1) / paths))
    return [
        Distance(name="lipschitz", value=float(largest[-1]), standard_error=error, n=constants.size),
        Distance(name="lipschitz_mean", value=mean.value, standard_error=mean.standard_error, n=constants.size),
    ]


def _constants(
    field: VelocityField, store: TrajectoryStore, shard: Shard, *, seed: int, device: torch.device
) -> np.ndarray:
    """Give the constants along some trajectories, ``[rows, times]``."""
    plan, is_network = store.plan, isinstance(field, nn.Module)
    place, dtype = (device, torch.float32) if is_network else (CPU, torch.float64)
    states = torch.from_numpy(store.read_rows(shard.start, shard.stop)).to(place, dtype)  # [rows, times, *dim]
    label = row_labels(plan, shard.start, shard.stop)
    given = given_labels(plan, field, None if label is None else label.to(place))
    found = []
    for k in np.unique(np.linspace(0, len(plan.times) - 2, _TIMES).round().astype(int)):
        at_time = partial(given.velocity, torch.tensor(plan.times[k], dtype=torch.float64, device=place))
        adjoint = adjoint_of(at_time) if is_network else None  # the Jacobian of the others is symmetric
        first = seed + shard.start * len(plan.times) + int(k)
        found.append(local_lipschitz(at_time, states[:, k], seed=first, adjoint=adjoint))
    return torch.stack(found, 1).numpy()


def _mean(name: str, values: np.ndarray) -> Distance:
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
    return Distance(name=name, value=float(values.mean()), standard_error=error, n=len(values))


def root_mean_square(name: str, squares: np.ndarray) -> Distance:
    """Give the root of the mean of ``squares [n]``, its standard error by the delta method."""
    mean = _mean(name, squares)
    value = math.sqrt(mean.value)
    error = mean.standard_error / (2 * value) if value > 0 else 0.0
    return Distance(name=name, value=value, standard_error=error, n=mean.n)
