"""The Frechet distances of many samples to all data, of pixels and of features, by moments that are streamed.

The floor is the same distance of data that the generator was not fitted to: fresh draws of a synthetic target, the
other split of the dataset's folder, or, where there is neither, one random half of the data against the other.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from storage.data import DataStore
from storage.datasets.pixels import from_unit, to_unit
from storage.datasets.resolve import open_dataset
from storage.errors import InputError
from storage.sources import other_split
from storage.specs import SourceSpec
from storage.trajectories import Floats
from tasks.distances import data_blocks, ranges_of
from tasks.evaluation.comparison import Measured
from tasks.evaluation.distance import Distance
from tasks.evaluation.frechet import Moments, Sketch, frechet_with_error
from tasks.features import LawFeatures, count_features
from tasks.sample import image_shape, sample_rows
from tasks.specs import PATH_KINDS, SYNTHETIC_KINDS, DatasetSpec, EvaluationSpec
from tasks.train_generator import StoredGenerator
from tasks.transport.noise import FRESH_DATA
from tasks.transport.synthetic import draw

logger = logging.getLogger(__name__)

PIXELS, FEATURES = "frechet_pixel", "frechet_features"

_MOST_VALUES = 4096  # of an image: the covariance of its pixels, and its root, take the square and the cube of that
_LEAST_ROWS = 4  # two of each half
_HALVES = 7  # of the random numbers of an evaluation's seed: which rows are of the first half
_LEVEL_ERROR = 1e-3  # of an 8-bit level, by rounding in single precision

Told = Callable[[int, int], None]  # hears of points taken in, (done, total)


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where laws are compared: the points that become of states in data units, and the words for it."""

    name: str  # of the metric
    points: Callable[[Floats], Floats]  # [rows, *dim] -> [rows, d]
    words: str


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Data that the generator was not fitted to."""

    rows: int
    blocks: Callable[[], Iterator[Floats]]  # in data units, [rows, *dim]
    words: str


@dataclass(frozen=True, kw_only=True)
class FrechetScores:
    """What was measured, and the words for each by its name."""

    measured: list[Measured]
    about: dict[str, str]


def require_enough(spec: EvaluationSpec, dataset: DatasetSpec, data: DataStore, features: LawFeatures | None) -> None:
    """Refuse before any training what could not be measured after it.

    Raises:
        InputError: there are too few rows, or too few samples or rows for a covariance of full rank, or features that
            do not suit the data, or another split of other shapes.
    """
    if data.rows < _LEAST_ROWS:
        raise InputError(
            f"dataset must have at least {_LEAST_ROWS} rows for an evaluation, two for each half, got {data.rows}"
        )
    count = _count(spec, data)
    sizes = {PIXELS: math.prod(data.dim)} if _is_scored(data) else {}
    if features is not None:
        sizes[FEATURES] = count_features(features, data.dim)
    for name, size in sizes.items():
        few = ("rows of the dataset", data.rows) if data.rows <= size else ("evaluation.frechet_samples", count)
        if count <= size:
            raise InputError(
                f"{few[0]} must be at least {size + 1} for {name}, one more than a point has numbers, got {few[1]}"
            )
    if sizes:
        _held_out(spec, dataset, data)


def measure_frechet(
    spec: EvaluationSpec,
    dataset: DatasetSpec,
    data: DataStore,
    stored: StoredGenerator,
    *,
    first: Sequence[Floats],
    features: LawFeatures | None,
    told: Told,
) -> FrechetScores:
    """Give ``frechet_pixel`` of images and ``frechet_features`` where there are features, each with its floor.

    Args:
        spec: how many samples, and the seed.
        dataset: where the data come from.
        data: all that samples are compared with.
        stored: the generator, whose samples take one evaluation.
        first: its samples from 0 on, as far as they are drawn already.
        features: of the user's.
        told: for a progress bar.
    """
    reference = FrechetReference(spec, dataset, data, features=features, told=told)
    return reference.compare(drawn(stored, data, first=first, count=reference.count, seed=spec.seed))


class FrechetReference:
    """All data and what the floors are of, taken in once; laws are compared with them one after another.

    A block of states is held at a time, and of each side a covariance.

    Args:
        spec: how many samples.
        dataset: where the data come from.
        data: all that laws are compared with.
        features: of the user's.
        told: for a progress bar, which ends with the first law.
    """

    def __init__(
        self,
        spec: EvaluationSpec,
        dataset: DatasetSpec,
        data: DataStore,
        *,
        features: LawFeatures | None,
        told: Told = lambda *_: None,
    ) -> None:
        self.count = _count(spec, data)  # samples of a law
        is_image = image_shape(data.dim) is not None
        self._is_levels = is_image and (dataset.kind == "digits" or _are_levels(next(data_blocks(data))))
        spaces = _spaces(data, features, is_levels=self._is_levels)
        held = _held_out(spec, dataset, data) if spaces else None
        self._follow = _Follower(told, total=data.rows + self.count + (held.rows if held else 0))
        self._floors = [_Floor(space, data, held, seed=spec.seed) for space in spaces]
        for block in self._follow(data_blocks(data)) if spaces else ():
            for floor in self._floors:
                floor.take(block)
        for block in self._follow(held.blocks()) if held else ():
            for floor in self._floors:
                floor.take_held(block)

    def compare(self, samples: Iterable[Floats]) -> FrechetScores:
        """Give the distances of a law, by :attr:`count` samples in data units, in blocks ``[rows, *dim]``.

        Where the data are 8-bit levels, samples are rounded to such as well.
        """
        sketches = [Sketch(self.count) for _ in self._floors]
        for block in self._follow(samples) if sketches else ():
            x = to_unit(from_unit(block)) if self._is_levels else block
            for floor, sketch in zip(self._floors, sketches, strict=True):
                sketch.update(floor.space.points(x))
        measured = [floor.compare(sketch) for floor, sketch in zip(self._floors, sketches, strict=True)]
        return FrechetScores(measured=measured, about={floor.space.name: floor.words for floor in self._floors})


def drawn(
    stored: StoredGenerator,
    data: DataStore,
    *,
    count: int,
    seed: int,
    evaluations: int = 1,
    first: Sequence[Floats] = (),
) -> Iterator[Floats]:
    """Give samples 0 to ``count`` of a generator in blocks, those that are drawn already first.

    Args:
        stored: the generator.
        data: that it was fitted to.
        count: of samples.
        seed: of their noise.
        evaluations: of the network, a sample.
        first: samples from 0 on, as far as they are drawn already, with as many evaluations.
    """
    done = 0
    for held in first:
        for start, stop in ranges_of(min(len(held), count - done), data.dim):
            yield held[start:stop]
        done = min(done + len(held), count)
    draw_rows = partial(sample_rows, stored, data.standardisation, steps=evaluations, seed=seed)
    for start, stop in ranges_of(count - done, data.dim):
        yield draw_rows(start=done + start, stop=done + stop)


class _Follower:
    """Passes blocks on, and tells how many points have gone by."""

    def __init__(self, told: Told, *, total: int) -> None:
        self._told, self._total, self._done = told, total, 0

    def __call__(self, blocks: Iterable[Floats]) -> Iterator[Floats]:
        for block in blocks:
            yield block
            self._done += len(block)
            self._told(self._done, self._total)


class _Floor:
    """The data's sides of a distance: all of it, and those that the floor is of; one space, one pass over the data."""

    def __init__(self, space: Space, data: DataStore, held: HeldOut | None, *, seed: int) -> None:
        self.space = space
        self._rows = data.rows
        self._source = held
        self._rest = Moments()  # all data, or those that are not of the first half
        self._held = Sketch(held.rows if held else data.rows // 2)
        self._is_first = np.zeros(data.rows, np.bool_)
        if held is None:
            order = np.random.default_rng([seed, _HALVES]).permutation(data.rows)
            self._is_first[order[: data.rows // 2]] = True
        self._done = 0

    @property
    def words(self) -> str:
        """What is compared with what."""
        half = self._held.moments.n
        halves = f"half of the data to the other ({half:,} and {self._rows - half:,} rows), high for its fewer points"
        return (
            f"Frechet distance (a squared gaussian_w2) of {self.space.words}, to all {self._rows:,} rows; floor: "
            f"{self._source.words if self._source else halves}"
        )

    def take(self, block: Floats) -> None:
        """Take in the next rows of the data."""
        found = self.space.points(block)
        is_first = self._is_first[self._done : self._done + len(block)]
        self._done += len(block)
        if is_first.any():
            self._held.update(found[is_first])
        if not is_first.all():
            self._rest.update(found[~is_first])

    def take_held(self, block: Floats) -> None:
        """Take in the next rows of the data that were not fitted to."""
        self._held.update(self.space.points(block))

    @cached_property
    def _floor(self) -> tuple[float, float]:
        """The floor and its standard error."""
        value, error = frechet_with_error(self._held, self._rest)
        return value, error * math.sqrt(2) if self._source is None else error  # both halves are random, and as large

    @cached_property
    def _whole(self) -> Moments:
        """All the data's."""
        if self._source is not None:
            return self._rest
        found = Moments()
        found.merge(self._rest)
        found.merge(self._held.moments)
        return found

    def compare(self, samples: Sketch) -> Measured:
        """Give the distance of samples to all data, beside the floor."""
        (floor, floor_error), name = self._floor, self.space.name
        value, error = frechet_with_error(samples, self._whole)
        return Measured(
            distance=Distance(
                name=name, value=value, standard_error=error, n=samples.moments.n, n_reference=self._whole.n
            ),
            floor=Distance(
                name=f"{name}_floor",
                value=floor,
                standard_error=floor_error,
                n=self._held.moments.n,
                n_reference=self._rest.n,
            ),
            ratio=Distance(
                name=f"{name}_ratio",
                value=value / floor,
                standard_error=math.hypot(error, value / floor * floor_error) / floor,
                n=samples.moments.n,
            ),
        )


def _count(spec: EvaluationSpec, data: DataStore) -> int:
    """Give how many samples there are: more than the data have rows would only show how few these are."""
    return min(spec.frechet_samples, data.rows)


def _is_scored(data: DataStore) -> bool:
    """Tell whether images are so small, and so many, that their covariance can be had."""
    return image_shape(data.dim) is not None and math.prod(data.dim) <= min(_MOST_VALUES, data.rows - 1)


def _are_levels(x: Floats) -> bool:
    """Tell whether values are 8-bit pixels as this project has them, 0 ... 255 mapped to [-1, 1]."""
    level = (x.astype(np.float64) + 1) * 127.5
    return bool((abs(level - np.clip(np.rint(level), 0, 255)) < _LEVEL_ERROR).all())


def _spaces(data: DataStore, features: LawFeatures | None, *, is_levels: bool) -> list[Space]:
    found = []
    if _is_scored(data):
        words = "pixels in [0, 1], samples rounded to 8 bits" if is_levels else "values as they are, no 8-bit pixels"
        found.append(Space(name=PIXELS, points=_unit_interval if is_levels else _as_they_are, words=words))
    elif image_shape(data.dim):
        logger.warning(
            "%s is left out: images of %d numbers need more rows than that, and at most %d numbers; got %d rows",
            PIXELS,
            math.prod(data.dim),
            _MOST_VALUES,
            data.rows,
        )
    if features is not None:
        found.append(Space(name=FEATURES, points=features.points, words=f"the features {features.name}"))
    return found


def _unit_interval(x: Floats) -> Floats:
    return (x.astype(np.float64) + 1) / 2


def _as_they_are(x: Floats) -> Floats:
    return x


def _held_out(spec: EvaluationSpec, dataset: DatasetSpec, data: DataStore) -> HeldOut | None:
    """Give data that no training saw, where there are such.

    Raises:
        InputError: they cannot be read, or have another shape.
    """
    if dataset.kind in SYNTHETIC_KINDS:
        count, target = _count(spec, data), dataset.target()
        return HeldOut(
            rows=count,
            blocks=lambda: (
                draw(target, start, stop, seed=spec.seed, stream=FRESH_DATA).numpy()
                for start, stop in ranges_of(count, data.dim)
            ),
            words=f"{count:,} fresh draws",
        )
    if dataset.kind not in PATH_KINDS:
        return None
    source = other_split(
        SourceSpec(
            kind=dataset.kind,
            path=dataset.path,
            split=dataset.split,
            column=dataset.column,
            label_column=dataset.label_column,
        )
    )
    if source is None:
        return None
    rows = open_dataset(source)
    if rows.dim != data.dim:
        raise InputError(
            f"dataset.path {source.path!r}: its {source.split} split has rows of shape {list(rows.dim)}, and the data "
            f"have {list(data.dim)}; move it away, and the floor is that of halves of the data"
        )
    return HeldOut(
        rows=rows.rows,
        blocks=lambda: (rows.read(start, stop)[0] for start, stop in ranges_of(rows.rows, rows.dim)),
        words=f"the {rows.rows:,} rows of the {source.split} split",
    )
