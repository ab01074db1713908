"""The dataset of a run, standardised and cut into shards: a Zarr v3 group with ``x [rows, *dim]`` and ``label [rows]``.

One chunk is one shard. The attributes (mean, scale, classes, source, digest) are written last; only they make the store
whole. Zarr gives the fill value for a chunk that is gone, so a read looks for the chunks' files first.
"""

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from storage.atomic import sync_folder, sync_tree
from storage.cache import NodeFiles, publish, scratch
from storage.checksum import DIGEST_BYTES
from storage.chunks import ChunkGrid, Shard, default_chunk_rows, even_shards
from storage.errors import DamagedError, IncompleteError, InputError
from storage.fingerprint import fingerprint
from storage.paths import Location
from storage.records import require_known_version
from storage.remote import RemotePath
from storage.shards import map_shard, write_shard
from storage.specs import SCHEMA_VERSION

Values = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Moments = npt.NDArray[np.float64]
Read = TypeVar("Read")

MOST_CLASSES = 2**16  # of an index that is no class but a number of some other kind, the shares would fill the memory
_BLOCK_BYTES = 8 * 2**20  # of rows in single precision that are worked on at once; a row is never cut


class Dataset(Protocol):
    """Rows of data of one shape, read by range, usually in order."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        ...

    @property
    def dim(self) -> tuple[int, ...]:
        """Shape of one row; images are channel first."""
        ...

    @property
    def has_labels(self) -> bool:
        """Whether rows have a class."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in order of index; empty where they have none."""
        ...

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        """Give rows ``start <= row < stop`` in data units, ``[stop - start, *dim]``, and their labels if any."""
        ...

    def where(self, row: int) -> str:
        """Give the file and the row in it, for people: ``data.npz: row 7``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Standardisation:
    """The affine map between data units and standardised units: ``x = mean + scale * z``; both are ``[*dim]``."""

    mean: Moments
    scale: Moments

    def to_standard(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Map data units to standardised units, ``[..., *dim]``, in the type of ``x``."""
        out = np.empty_like(x)
        for block in self._blocks(x):
            out[block] = (x[block] - self.mean) / self.scale
        return out

    def to_data(self, z: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Map standardised units back to data units, ``[..., *dim]``, in the type of ``z``."""
        out = np.empty_like(z)
        for block in self._blocks(z):
            out[block] = self.mean + self.scale * z[block]
        return out

    def _blocks(self, x: npt.NDArray[Any]) -> Iterator[slice]:
        """Give slices of the first axis so short that their double-precision copies are small beside ``x``."""
        if x.ndim <= self.mean.ndim:  # a single row
            yield slice(None)
            return
        rows = _block_rows(x.shape[1:])
        for start in range(0, len(x), rows):
            yield slice(start, start + rows)


def ingest_dataset(
    path: Location,
    dataset: Dataset,
    *,
    source: dict[str, Any],
    shards: int,
    standardise: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> "DataStore":
    """Write a dataset as a standardised store in two passes, holding one block of rows at a time.

    Vectors are scaled coordinate by coordinate; images by one scale for all pixels, which share their units. What is
    wrong with the data shows in the first pass, before anything is written; should the second fail, what it wrote is
    removed. ``progress`` hears of rows read, (done, total), where each is read twice. For an object store it is written
    here first, into the cache, and goes up when it is whole.

    Raises:
        InputError: the dataset is empty, or has a value that is not finite, or a label that is no class.
    """
    if isinstance(path, RemotePath):
        with scratch() as folder:
            here = folder / path.name
            ingest_dataset(here, dataset, source=source, shards=shards, standardise=standardise, progress=progress)
            publish(here, path)
        return DataStore(path)
    if dataset.rows < 1:
        raise InputError("dataset is empty; it needs at least one row")
    total = 2 * dataset.rows
    survey = _survey(dataset, is_standardised=standardise, seen=lambda row: progress(row, total))
    try:
        _write(
            path,
            dataset,
            survey,
            source=source,
            grid=even_shards(dataset.rows, shards=shards),
            seen=lambda row: progress(dataset.rows + row, total),
        )
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return DataStore(path)


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """What the first pass found."""

    standardisation: Standardisation
    std: float  # of the values that are stored, over all coordinates
    classes: tuple[str, ...]
    class_shares: Moments


def _survey(dataset: Dataset, *, is_standardised: bool, seen: Callable[[int], None]) -> _Survey:
    """Check every row and give the moments, whose bits do not depend on the shards.

    Sums are in float64 about the first block's mean, which keeps them accurate.
    """
    shift, total, square = np.zeros(dataset.dim), np.zeros(dataset.dim), np.zeros(dataset.dim)
    counts = np.zeros(len(dataset.classes) if dataset.has_labels else 0, np.int64)
    for block, values, labels in _read_blocks(dataset, Shard(0, dataset.rows), seen):
        _require_finite(dataset, block, values)
        wide = values.astype(np.float64)
        if block.start == 0:
            shift = wide.mean(0)
        wide -= shift
        total += wide.sum(0)
        square += np.square(wide, out=wide).sum(0)
        if labels is not None:
            counts = _counted(dataset, block, labels, counts)
    mean = total / dataset.rows
    variance = np.maximum(square / dataset.rows - mean**2, 0)
    std = math.sqrt(variance.mean()) or 1.0
    if len(dataset.dim) > 1:
        variance = np.full_like(variance, variance.mean())
    scale = np.sqrt(variance)
    standardisation = Standardisation(mean=shift + mean, scale=np.where(scale > 0, scale, 1.0))
    if not is_standardised:
        standardisation = Standardisation(mean=np.zeros(dataset.dim), scale=np.ones(dataset.dim))
    return _Survey(
        standardisation=standardisation,
        std=1.0 if is_standardised else std,
        classes=(dataset.classes or tuple(str(k) for k in range(len(counts)))) if dataset.has_labels else (),
        class_shares=counts / dataset.rows,
    )


def _require_finite(dataset: Dataset, block: Shard, values: Values) -> None:
    good = np.isfinite(values).reshape(block.rows, -1).all(1)
    if not good.all():
        row = block.start + int(good.argmin())
        raise InputError(f"{dataset.where(row)} has a value that is not finite in single precision; all must be")


def _counted(dataset: Dataset, block: Shard, labels: Labels, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Add the labels of a block to the rows of each class, as many as have names or, without names, as have rows."""
    limit = len(dataset.classes) or MOST_CLASSES
    good = (labels >= 0) & (labels < limit)
    if not good.all():
        at = int(good.argmin())
        raise InputError(
            f"{dataset.where(block.start + at)} has label {labels[at]}; labels must be classes from 0 to {limit - 1}"
        )
    found = np.bincount(labels, minlength=len(counts))
    found[: len(counts)] += counts
    return found


def _read_blocks(
    dataset: Dataset, rows: Shard, seen: Callable[[int], None]
) -> Iterator[tuple[Shard, Values, Labels | None]]:
    """Read a range of rows in order, a block at a time, and tell up to which row the caller is through."""
    size = _block_rows(dataset.dim)
    for start in range(rows.start, rows.stop, size):
        block = Shard(start, min(start + size, rows.stop))
        yield block, *dataset.read(block.start, block.stop)
        seen(block.stop)


def _block_rows(dim: tuple[int, ...]) -> int:
    return default_chunk_rows(4 * max(1, math.prod(dim)), chunk_bytes=_BLOCK_BYTES)


def _write(
    path: Path,
    dataset: Dataset,
    survey: _Survey,
    *,
    source: dict[str, Any],
    grid: ChunkGrid,
    seen: Callable[[int], None],
) -> None:
    """Lay out the store, write its shards, and last the attributes that make it whole."""
    group = zarr.create_group(path, zarr_format=3, overwrite=True)
    arrays = {"x": _lay_out(group, "x", grid, dtype="float32", dim=dataset.dim)}
    if dataset.has_labels:
        arrays["label"] = _lay_out(group, "label", grid, dtype="int64", dim=())
    states = {name: hashlib.blake2b(digest_size=DIGEST_BYTES) for name in arrays}
    for index in range(grid.count):
        with ExitStack() as files:
            append = {name: files.enter_context(_open_shard(path, array, index)) for name, array in arrays.items()}
            for _, values, labels in _read_blocks(dataset, grid.chunk(index), seen):
                rows: dict[str, npt.NDArray[Any]] = {"x": survey.standardisation.to_standard(values)}
                if labels is not None:
                    rows["label"] = labels
                for name, part in rows.items():
                    append[name](part)
                    states[name].update(np.ascontiguousarray(part).data)
    sync_tree(path)
    group.update_attributes(_attributes(dataset, survey, source, {name: s.hexdigest() for name, s in states.items()}))
    sync_tree(path)
    sync_folder(path.parent)


def _lay_out(group: zarr.Group, name: str, grid: ChunkGrid, *, dtype: str, dim: tuple[int, ...]) -> Any:
    return group.create_array(
        name,
        shape=(grid.rows, *dim),
        chunks=(grid.chunk_rows, *dim),
        dtype=dtype,
        compressors=[Crc32cCodec()],
    )


def _open_shard(path: Path, array: Any, index: int) -> AbstractContextManager[Callable[[npt.NDArray[Any]], None]]:
    return write_shard(path / _shard_name(array, index), value_bytes=array.dtype.itemsize * math.prod(array.chunks))


def _attributes(dataset: Dataset, survey: _Survey, source: dict[str, Any], states: dict[str, str]) -> dict[str, Any]:
    units = survey.standardisation
    content = {"dim": list(dataset.dim), "mean": units.mean.tolist(), "scale": units.scale.tolist()}
    return {
        "version": SCHEMA_VERSION,
        "mean": content["mean"],
        "scale": content["scale"],
        "std": survey.std,
        "classes": list(survey.classes),
        "class_shares": survey.class_shares.tolist(),
        "source": source,
        "digest": fingerprint(content | {"label": None} | states),
    }


def _shard_name(array: Any, index: int) -> str:
    """Give the name inside the store of the file of a shard of one of its arrays."""
    return f"{array.path}/{array.metadata.encode_chunk_key((index, *[0] * (array.ndim - 1)))}"


class DataStore:
    """A finished ``data.zarr``.

    Raises:
        IncompleteError: there is none, or its ingest did not end.
    """

    def __init__(self, path: Location) -> None:
        try:
            self._node = NodeFiles(path)
        except FileNotFoundError as error:
            raise IncompleteError(f"{path} is missing; run the ingest step first") from error
        # no older format, in which a store can name pickle as its codec
        group = zarr.open_group(self._node.folder, mode="r", zarr_format=3)
        attributes: dict[str, Any] = dict(group.attrs)
        if "digest" not in attributes:
            raise IncompleteError(f"{path} is half ingested; run the ingest step again")
        require_known_version(path, attributes["version"])
        self.path = path
        self.digest = str(attributes["digest"])
        self.source = attributes["source"]
        self.std = float(attributes["std"])  # of the stored values, over all coordinates
        # names of the classes in order of index, and the share of the rows that each has; of older stores unknown
        self.classes: tuple[str, ...] = tuple(attributes.get("classes", ()))
        self.class_shares: Moments = np.asarray(attributes.get("class_shares", ()), dtype=np.float64)
        self._x: Any = group["x"]
        self._label: Any = group.get("label", None)
        self.standardisation = Standardisation(
            mean=np.asarray(attributes["mean"], dtype=np.float64),
            scale=np.asarray(attributes["scale"], dtype=np.float64),
        )

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._x.shape[0])

    @property
    def dim(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self._x.shape[1:])

    @property
    def shards(self) -> ChunkGrid:
        """The row ranges that are read and stored together."""
        return ChunkGrid(self.rows, int(self._x.chunks[0]))

    def read(self, shard: Shard) -> Values:
        """Give standardised rows, ``[rows, *dim]``, in memory of the caller's own.

        Raises:
            DamagedError: the bytes fail their checksum or are gone.
        """
        return self._read(self._x, shard)

    def view(self, shard: Shard) -> Values:
        """Give standardised rows, ``[rows, *dim]``, without holding them: a map of the stored shard's file.

        Its pages are shared by all processes of a node and go when memory is short; a page that is written to becomes
        the writer's own copy, and the file stays as it is. Where the rows lie in more than one stored shard, a copy of
        just these rows.

        Raises:
            DamagedError: the bytes fail their checksum, which is verified once a process and stored shard, or are gone.
        """
        size, stop = self.shards.chunk_rows, min(shard.stop, self.rows)
        parts = []
        for index in range(shard.start // size, -(-stop // size)):
            first = index * size
            parts.append(self._map(index)[max(shard.start - first, 0) : stop - first])
        if not parts:
            return np.empty((0, *self.dim), np.float32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def labels(self, shard: Shard) -> Labels | None:
        """Give the labels of rows, ``[rows]``, or None for an unlabelled dataset."""
        return None if self._label is None else self._read(self._label, shard)

    def _map(self, index: int) -> Values:
        file = self._node.folder / _shard_name(self._x, index)
        return self._checked(
            self._x, range(index, index + 1), lambda: map_shard(file, shape=self._x.chunks, dtype=np.float32)
        )

    def _read(self, array: Any, shard: Shard) -> npt.NDArray[Any]:
        size = self.shards.chunk_rows

        def read() -> npt.NDArray[Any]:
            try:
                return np.asarray(array[shard.start : shard.stop])
            except (ValueError, RuntimeError) as error:
                raise DamagedError(
                    f"{self.path} is damaged in rows {shard.start} to {shard.stop}; ingest again"
                ) from error

        return self._checked(array, range(shard.start // size, -(-min(shard.stop, self.rows) // size)), read)

    def _checked(self, array: Any, shards: range, read: Callable[[], Read]) -> Read:
        """Read shards that are there; where they are copies that turn out to be damaged, once more from new ones."""
        names = [_shard_name(array, index) for index in shards]
        for index, name in zip(shards, names, strict=True):
            try:
                self._node.require(name)
            except FileNotFoundError as error:
                raise DamagedError(f"{self.path} has lost shard {index} of {array.path}; ingest again") from error
        try:
            return read()
        except DamagedError:
            if not self._node.renew(names):
                raise
        return read()
