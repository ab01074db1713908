"""What the report's pictures show: data, samples of one and of more evaluations, the solver's, their neighbours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from storage.chunks import Shard
from storage.data import DataStore
from storage.trajectories import Floats
from tasks.budget import Subject
from tasks.distances import to_data
from tasks.evaluation.images import STRIP_TIMES
from tasks.neighbours import NEAREST, Compared
from tasks.sample import image_shape, sample_rows

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


def gather(subject: Subject, *, samples: Sequence[Floats], compared: Compared) -> Shown:
    """Gather what is drawn of a run.

    Args:
        subject: the run.
        samples: its sets of one-step samples.
        compared: their nearest training points.
    """
    data = subject.data
    shown = shown_points(data.dim)
    return Shown(
        data=_rows(data, shown),
        samples=np.concatenate([each[:shown] for each in samples])[:shown],
        states=to_data(data, subject.store.read_rows(0, min(shown_paths(data.dim), subject.count))),
        times=np.asarray(subject.store.plan.times),
        evaluations=_by_evaluations(subject),
        neighbours=_with_neighbours(compared, data),
    )


def _with_neighbours(compared: Compared, data: DataStore) -> dict[str, Floats]:
    """Give samples and their nearest training points, as many as fit; none but images."""
    if image_shape(data.dim) is None:
        return {}
    count = min(shown_images(data.dim, most=_SHOWN_COLUMNS, of=1 + NEAREST), len(compared.samples))
    rows = [compared.samples[:count], *compared.nearest(data, count=count)]
    return dict(zip(_NEAREST_WORDS, rows, strict=False))


def _by_evaluations(subject: Subject) -> dict[str, Floats]:
    """Give samples of one noise by the number of evaluations, data before and the solver's end states after them."""
    data, stored = subject.data, subject.stored
    is_image = image_shape(data.dim) is not None
    if not (is_image or data.dim == (2,)):
        return {}
    most = shown_images(data.dim, most=_SHOWN_COLUMNS, of=len(EVALUATIONS) + 2)
    count = most if is_image else _PANEL_POINTS
    found = {"data": _rows(data, count)}
    for steps in EVALUATIONS:
        if steps < len(stored.times):
            words = f"{steps} evaluation{'s' if steps > 1 else ''}"
            found[words] = sample_rows(
                stored, data.standardisation, start=0, stop=count, steps=steps, seed=subject.seed
            )
    words = f"solver, {len(subject.store.plan.solver_times) - 1} steps"
    return found | {words: to_data(data, subject.solver_ends(0, count))}


def _rows(data: DataStore, count: int) -> Floats:
    return to_data(data, data.read(Shard(0, min(count, data.rows))))
