"""The sets of samples and of data that an evaluation compares, and the distances between them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from storage.chunks import Shard
from storage.data import DataStore
from storage.trajectories import Floats
from tasks.evaluation.comparison import Comparison, Load, Measured, all_pairs, held, measure, split_pairs
from tasks.evaluation.frechet import frechet_of_points
from tasks.evaluation.sinkhorn import sinkhorn
from tasks.evaluation.sliced import sliced_wasserstein
from tasks.evaluation.wasserstein import wasserstein
from tasks.facts import Progress
from tasks.rows import Indices, RowReader
from tasks.sample import sample_rows
from tasks.specs import SYNTHETIC_KINDS, DatasetSpec, EvaluationSpec
from tasks.train_generator import StoredGenerator
from tasks.transport.noise import FRESH_DATA
from tasks.transport.synthetic import draw

PROJECTIONS = 256  # directions of the sliced distance
SINKHORN_POINTS = 500  # its rounds are many, each quadratic in the points

_BLOCK_VALUES = 2**20  # coordinates of the data, or of samples, that are held at once


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What is compared."""

    samples: list[Floats]  # one-step samples in data units, a set a repetition: those from 0 on, in order
    comparison: Comparison


def draw_sets(spec: EvaluationSpec, dataset: DatasetSpec, data: DataStore, stored: StoredGenerator) -> Sets:
    """Give sets of one size: fresh draws in all pairs, or random disjoint halves of the dataset, split by split."""
    one_step = partial(sample_rows, stored, data.standardisation, steps=1, seed=spec.seed)
    samples = [one_step(start=start, stop=stop) for start, stop in set_ranges(spec, dataset, data)]
    return Sets(samples=samples, comparison=compare(samples, data_sets(spec, dataset, data)))


def set_ranges(spec: EvaluationSpec, dataset: DatasetSpec, data: DataStore) -> list[tuple[int, int]]:
    """Give which samples, ``start <= i < stop``, make the set of each repetition."""
    size = spec.samples if dataset.kind in SYNTHETIC_KINDS else min(spec.samples, data.rows // 2)
    return [(k * size, (k + 1) * size) for k in range(spec.repeats)]


def data_sets(spec: EvaluationSpec, dataset: DatasetSpec, data: DataStore) -> list[tuple[Load, ...]]:
    """Give the data of each repetition: a set of fresh draws, or two random disjoint halves of the dataset."""
    ranges = set_ranges(spec, dataset, data)
    if dataset.kind in SYNTHETIC_KINDS:
        target = dataset.target()
        draws = [draw(target, start, stop, seed=spec.seed, stream=FRESH_DATA).numpy() for start, stop in ranges]
        return [(held(x),) for x in draws]
    _, size = ranges[0]
    orders = [np.random.default_rng([spec.seed, k]).permutation(data.rows)[: 2 * size] for k in range(spec.repeats)]
    return [(partial(take, data, o[:size]), partial(take, data, o[size:])) for o in orders]


def compare(samples: Sequence[Floats], data: Sequence[tuple[Load, ...]]) -> Comparison:
    """Compare sets of samples with :func:`data_sets`: draws in all pairs, halves split by split."""
    across = [held(x) for x in samples]
    if len(data[0]) == 1:
        return all_pairs(across, [x for (x,) in data])
    return split_pairs(across, [(x, y) for x, y in data])


def measure_sets(comparison: Comparison, *, seed: int, progress: Progress) -> list[Measured]:
    """Give ``w2``, ``sliced_w2``, ``sinkhorn`` and ``gaussian_w2``, each with its floor."""
    measures: dict[str, Callable[[Floats, Floats], float]] = {
        "w2": wasserstein,
        "sliced_w2": lambda x, y: sliced_wasserstein(x, y, projections=PROJECTIONS, seed=seed),
        "sinkhorn": sinkhorn,
        "gaussian_w2": lambda x, y: math.sqrt(frechet_of_points(x, y)),
    }
    done = 0
    found = []
    for name, distance in measures.items():

        def told(name: str = name) -> None:
            nonlocal done
            done += 1
            progress(done, comparison.size * len(measures), f"distances, {name}")

        sets = comparison.first(SINKHORN_POINTS) if name == "sinkhorn" else comparison
        found.append(measure(name, distance, sets, told=told))
    return found


def take(data: DataStore, rows: Indices) -> Floats:
    """Give rows of the data by number, in data units."""
    return to_data(data, RowReader(data).take(rows))


def to_data(data: DataStore, x: Floats) -> Floats:
    """Map standardised states to data units."""
    return np.asarray(data.standardisation.to_data(x))


def data_blocks(data: DataStore) -> Iterator[Floats]:
    """Give all data in data units, some rows at a time, mapped anew each time, so that no more stay resident."""
    for start, stop in ranges_of(data.rows, data.dim):
        yield to_data(data, data.view(Shard(start, stop)))


def ranges_of(rows: int, dim: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Cut ``rows`` states of shape ``dim`` into ranges that are held at once."""
    size = max(256, min(8192, _BLOCK_VALUES // math.prod(dim)))
    for start in range(0, rows, size):
        yield start, min(start + size, rows)
