"""What the report's pictures show: data, samples of one and of more evaluations, the solver's, their neighbours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from storage.chunks import Shard
from storage.data import DataStore
from storage.paths import Location
from storage.trajectories import Floats, TrajectoryStore
from tasks.distances import to_data
from tasks.evaluation.images import STRIP_TIMES
from tasks.fit_velocity import load_velocity
from tasks.neighbours import NEAREST, Compared
from tasks.sample import image_shape, sample_labels, sample_rows
from tasks.simulation import given_labels
from tasks.train_generator import StoredGenerator
from tasks.transport.interpolant import Interpolant
from tasks.transport.noise import SAMPLES, standard_normal
from tasks.transport.solver import solve

EVALUATIONS = (1, 2, 5, 20)  # a sample

_SIDE_VALUES = 400_000  # numbers of all images of a side of a picture, at most: pages stay below 10 MB
_SHOWN_IMAGES, _SHOWN_STRIPS, _SHOWN_COLUMNS = 64, 6, 12
_SHOWN_POINTS, _SHOWN_PATHS, _PANEL_POINTS = 4000, 200, 1500
_NEAREST_WORDS = ("sample", "nearest", "second", "third")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The contents of the pictures, in data units."""

    data: Floats  # [n, *dim]
    samples: Floats  # [n, *dim]
    states: Floats  # [rows, times, *dim], stored
    times: Floats  # [times]
    evaluations: Mapping[str, Floats]  # by words; all but the data from the same noise, [m, *dim] each; may be empty
    neighbours: Mapping[str, Floats]  # samples and their nearest training points, by words; empty but for images


def shown_images(dim: tuple[int, ...], *, most: int, of: int = 1) -> int:
    """Give how many images fit a side of a picture: ``most``, fewer of large ones; each comes ``of`` times."""
    return max(1, min(most, _SIDE_VALUES // (of * math.prod(dim))))


def shown_points(dim: tuple[int, ...]) -> int:
    """Give how many points of each side are drawn."""
    return shown_images(dim, most=_SHOWN_IMAGES) if image_shape(dim) else _SHOWN_POINTS


def shown_paths(dim: tuple[int, ...]) -> int:
    """Give how many trajectories are drawn."""
    return shown_images(dim, most=_SHOWN_STRIPS, of=STRIP_TIMES) if image_shape(dim) else _SHOWN_PATHS


def gather(
    data: DataStore,
    store: TrajectoryStore,
    stored: StoredGenerator,
    *,
    samples: Sequence[Floats],
    compared: Compared,
    velocity: Location,
    count: int,
    seed: int,
) -> Shown:
    """Gather what is drawn.

    Args:
        data: the dataset.
        store: the trajectories.
        stored: the generator.
        samples: its sets of one-step samples.
        compared: their nearest training points.
        velocity: folder of the velocity that the trajectories follow.
        count: trajectories that are used.
        seed: of the samples' noise.
    """
    shown = shown_points(data.dim)
    return Shown(
        data=_rows(data, shown),
        samples=np.concatenate([each[:shown] for each in samples])[:shown],
        states=to_data(data, store.read_rows(0, min(shown_paths(data.dim), count))),
        times=np.asarray(store.plan.times),
        evaluations=_by_evaluations(data, store, stored, velocity=velocity, seed=seed),
        neighbours=_with_neighbours(compared, data),
    )


def _with_neighbours(compared: Compared, data: DataStore) -> dict[str, Floats]:
    """Give samples and their nearest training points, as many as fit; none but images."""
    if image_shape(data.dim) is None:
        return {}
    count = min(shown_images(data.dim, most=_SHOWN_COLUMNS, of=1 + NEAREST), len(compared.samples))
    rows = [compared.samples[:count], *compared.nearest(data, count=count)]
    return dict(zip(_NEAREST_WORDS, rows, strict=False))


def _by_evaluations(
    data: DataStore, store: TrajectoryStore, stored: StoredGenerator, *, velocity: Location, seed: int
) -> dict[str, Floats]:
    """Give samples of one noise by the number of evaluations, data before and the solver's end states after them."""
    is_image = image_shape(data.dim) is not None
    if not (is_image or data.dim == (2,)):
        return {}
    most = shown_images(data.dim, most=_SHOWN_COLUMNS, of=len(EVALUATIONS) + 2)
    count = most if is_image else _PANEL_POINTS
    found = {"data": _rows(data, count)}
    for steps in EVALUATIONS:
        if steps < len(stored.times):
            words = f"{steps} evaluation{'s' if steps > 1 else ''}"
            found[words] = sample_rows(stored, data.standardisation, start=0, stop=count, steps=steps, seed=seed)
    words = f"solver, {len(store.plan.solver_times) - 1} steps"
    return found | {words: _solver_ends(data, store, stored, velocity=velocity, count=count, seed=seed)}


def _solver_ends(
    data: DataStore, store: TrajectoryStore, stored: StoredGenerator, *, velocity: Location, count: int, seed: int
) -> Floats:
    """Give the solver's end states from the noise of the first samples, of their classes where there are any."""
    plan = store.plan
    x0 = standard_normal(seed, 0, count, data.dim, stream=SAMPLES).to(torch.float32)
    label = sample_labels(stored, start=0, stop=count, seed=seed, label=None)
    field = given_labels(plan, load_velocity(velocity), label)
    grid = torch.tensor(plan.solver_times, dtype=torch.float64)
    interpolant, last = Interpolant(plan.interpolant), [len(grid) - 1]
    return to_data(data, solve(field, x0, grid, solver=plan.solver, interpolant=interpolant, kept=last)[:, 0].numpy())


def _rows(data: DataStore, count: int) -> Floats:
    return to_data(data, data.read(Shard(0, min(count, data.rows))))
