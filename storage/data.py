"""The dataset of a run, standardised and cut into shards: a Zarr v3 group with ``x [rows, *dim]`` and ``label [rows]``.

One chunk is one shard. The attributes (mean, scale, source, digest) are written last; only they make the store whole.
Zarr gives the fill value for a chunk that is gone, so a read looks for the chunks' files first.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from storage.atomic import sync_folder, sync_tree
from storage.checksum import DIGEST_BYTES
from storage.chunks import ChunkGrid, Shard, even_shards
from storage.errors import DamagedError, IncompleteError, InputError, VersionError
from storage.fingerprint import fingerprint
from storage.specs import SCHEMA_VERSION

Values = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Moments = npt.NDArray[np.float64]


class Dataset(Protocol):
    """Rows of data of one shape, read by range."""

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

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        """Give rows ``start <= row < stop`` in data units, ``[stop - start, *dim]``, and their labels if any."""
        ...


@dataclass(frozen=True, kw_only=True)
class Standardisation:
    """The affine map between data units and standardised units: ``x = mean + scale * z``; both are ``[*dim]``."""

    mean: Moments
    scale: Moments

    def to_standard(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Map data units to standardised units, in the type of ``x``."""
        return np.asarray((x - self.mean) / self.scale, dtype=x.dtype)

    def to_data(self, z: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Map standardised units back to data units, in the type of ``z``."""
        return np.asarray(self.mean + self.scale * z, dtype=z.dtype)


def ingest_dataset(
    path: Path, dataset: Dataset, *, source: dict[str, Any], shards: int, standardise: bool
) -> "DataStore":
    """Write a dataset as a standardised store in two passes, holding one shard at a time.

    Vectors are scaled coordinate by coordinate; images by one scale for all pixels, which share their units.

    Raises:
        InputError: the dataset is empty or has a value that is not finite.
    """
    if dataset.rows < 1:
        raise InputError("dataset is empty; it needs at least one row")
    grid = even_shards(dataset.rows, shards=shards)
    mean, scale, std = _moments(dataset, grid)
    if not standardise:
        mean, scale = np.zeros(dataset.dim), np.ones(dataset.dim)
    standardisation = Standardisation(mean=mean, scale=scale)
    group = zarr.create_group(path, zarr_format=3, overwrite=True)
    codecs = [Crc32cCodec()]
    chunks = (grid.chunk_rows, *dataset.dim)
    x = group.create_array(
        "x", shape=(dataset.rows, *dataset.dim), chunks=chunks, dtype="float32", compressors=codecs, **_LAYOUT
    )
    labels: Any = None
    if dataset.has_labels:
        labels = group.create_array(
            "label", shape=(dataset.rows,), chunks=(grid.chunk_rows,), dtype="int64", compressors=codecs, **_LAYOUT
        )
    values_state, labels_state = (hashlib.blake2b(digest_size=DIGEST_BYTES) for _ in range(2))
    for shard, values, classes in _shards(dataset, grid):
        standard = standardisation.to_standard(values)
        x[shard.start : shard.stop] = standard
        values_state.update(np.ascontiguousarray(standard).data)
        if classes is not None:
            labels[shard.start : shard.stop] = classes
            labels_state.update(np.ascontiguousarray(classes).data)
    sync_tree(path)
    content = {"dim": list(dataset.dim), "mean": mean.tolist(), "scale": scale.tolist()}
    states = {"x": values_state.hexdigest(), "label": labels_state.hexdigest() if dataset.has_labels else None}
    group.update_attributes(
        {
            "version": SCHEMA_VERSION,
            "mean": content["mean"],
            "scale": content["scale"],
            "std": 1.0 if standardise else std,
            "source": source,
            "digest": fingerprint(content | states),
        }
    )
    sync_tree(path)
    sync_folder(path.parent)
    return DataStore(path)


_LAYOUT: dict[str, Any] = {"config": {"write_empty_chunks": True}}


def _shards(dataset: Dataset, grid: ChunkGrid) -> Iterator[tuple[Shard, Values, Labels | None]]:
    for index in range(grid.count):
        shard = grid.chunk(index)
        yield shard, *dataset.read(shard.start, shard.stop)


def _moments(dataset: Dataset, grid: ChunkGrid) -> tuple[Moments, Moments, float]:
    """Give mean and scale ``[*dim]`` and the root of the mean variance.

    Sums are in float64 about the first shard's mean, which keeps them accurate.
    """
    shift, total, square = np.zeros(dataset.dim), np.zeros(dataset.dim), np.zeros(dataset.dim)
    for shard, values, _ in _shards(dataset, grid):
        bad = ~np.isfinite(values).reshape(shard.rows, -1).all(1)
        if bad.any():
            row = shard.start + int(bad.argmax())
            raise InputError(f"dataset row {row} has a value that is not finite; all values must be finite")
        wide = values.astype(np.float64)
        if shard.start == 0:
            shift = wide.mean(0)
        total += (wide - shift).sum(0)
        square += ((wide - shift) ** 2).sum(0)
    mean = total / dataset.rows
    variance = np.maximum(square / dataset.rows - mean**2, 0)
    std = math.sqrt(variance.mean()) or 1.0
    if len(dataset.dim) > 1:
        variance = np.full_like(variance, variance.mean())
    scale = np.sqrt(variance)
    return shift + mean, np.where(scale > 0, scale, 1.0), std


class DataStore:
    """A finished ``data.zarr``.

    Raises:
        IncompleteError: there is none, or its ingest did not end.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "zarr.json").exists():
            raise IncompleteError(f"{path} is missing; run the ingest step first")
        group = zarr.open_group(path, mode="r")
        attributes: dict[str, Any] = dict(group.attrs)
        if "digest" not in attributes:
            raise IncompleteError(f"{path} is half ingested; run the ingest step again")
        if attributes["version"] > SCHEMA_VERSION:
            raise VersionError(
                f"{path} has format {attributes['version']}, this charflow reads up to {SCHEMA_VERSION}; upgrade"
            )
        self.path = path
        self.digest = str(attributes["digest"])
        self.source = attributes["source"]
        self.std = float(attributes["std"])  # of the stored values, over all coordinates
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
        """Give standardised rows, ``[rows, *dim]``.

        Raises:
            DamagedError: the bytes fail their checksum or are gone.
        """
        return self._read(self._x, shard)

    def labels(self, shard: Shard) -> Labels | None:
        """Give the labels of rows, ``[rows]``, or None for an unlabelled dataset."""
        return None if self._label is None else self._read(self._label, shard)

    def _read(self, array: Any, shard: Shard) -> npt.NDArray[Any]:
        size = self.shards.chunk_rows
        for index in range(shard.start // size, -(-min(shard.stop, self.rows) // size)):
            name = array.metadata.encode_chunk_key((index, *[0] * (array.ndim - 1)))
            if not (self.path / array.path / name).is_file():
                raise DamagedError(f"{self.path} has lost shard {index} of {array.path}; ingest again")
        try:
            return np.asarray(array[shard.start : shard.stop])
        except (ValueError, RuntimeError) as error:
            raise DamagedError(f"{self.path} is damaged in rows {shard.start} to {shard.stop}; ingest again") from error
