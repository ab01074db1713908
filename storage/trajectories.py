"""Trajectories in a Zarr v3 group that any Zarr reader can open: ``x [rows, times, *dim]`` and ``t [times]``.

One chunk holds whole trajectories, so one read serves every pair of a row. A chunk's file always holds ``chunk_rows``
trajectories, also where the array ends inside it: growth changes the array's shape and no chunk.
"""

import logging
import math
import os
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.array import AsyncArray
from zarr.errors import ContainsArrayError

from storage.atomic import sync_file, sync_folder
from storage.checksum import digest_file
from storage.chunks import ChunkGrid
from storage.commits import Commit, Ledger, Manifest
from storage.errors import DamagedError, IncompleteError
from storage.fingerprint import fingerprint
from storage.paths import ledger_path
from storage.specs import CODECS, TrajectoryPlan

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What ``verify`` found."""

    chunks: int  # that the sealed or requested rows need
    bad: tuple[int, ...]  # committed, but the bytes or the record are not what was promised
    missing: tuple[int, ...]  # without a record


class TrajectoryStore:
    """A store and its ledger.

    Only :meth:`write_chunk` makes a chunk, and only committed chunks are read. Make one with :meth:`create` or
    :meth:`open`.
    """

    def __init__(self, path: Path, plan: TrajectoryPlan, *, ledger: Ledger, fingerprint: str) -> None:
        self.path = path
        self.plan = plan
        self.ledger = ledger
        self._fingerprint = fingerprint
        self._array: Any = zarr.open_array(path / "x", mode="r+", config={"write_empty_chunks": True})

    @classmethod
    def create(cls, path: Path, plan: TrajectoryPlan, *, rows: int) -> "TrajectoryStore":
        """Open the store of a plan for ``rows`` rows or more, making or growing it where needed.

        Raises:
            PlanConflictError: a store of another plan lies here; nothing was changed.
        """
        ledger = Ledger(ledger_path(path))
        mark = ledger.establish(_plan_to_json(plan))
        _lay_out(path, plan, rows=rows)
        store = cls(path, plan, ledger=ledger, fingerprint=mark)
        if store.rows < rows:
            store._array.resize((rows, *store._array.shape[1:]))
        return store

    @classmethod
    def open(cls, path: Path) -> "TrajectoryStore":
        """Open an existing store.

        Raises:
            IncompleteError: there is none.
        """
        ledger = Ledger(ledger_path(path))
        found = ledger.plan()
        if not (path / "x" / "zarr.json").exists():
            raise IncompleteError(f"{path} holds no array x; run the integrate step again")
        return cls(path, _plan_from_json(found), ledger=ledger, fingerprint=fingerprint(found))

    @property
    def rows(self) -> int:
        """Number of trajectories that the array spans."""
        return int(self._array.shape[0])

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a whole chunk, ``(chunk_rows, times, *dim)``."""
        return (self.plan.chunk_rows, len(self.plan.times), *self.plan.dim)

    def grid(self, rows: int) -> ChunkGrid:
        """Give the chunks of the first ``rows`` trajectories."""
        return ChunkGrid(rows, self.plan.chunk_rows)

    def write_chunk(self, chunk: int, x: Floats, *, started: float | None = None) -> Commit:
        """Write, make durable, read back and commit one whole chunk ``x`` of :attr:`chunk_shape`.

        Safe to run twice or at once in two processes: the bytes are the same, and one record wins.

        Args:
            chunk: its index; it may lie in the array's last, partly visible chunk.
            x: the trajectories; not kept.
            started: ``time.monotonic()`` when the work began, for the record.

        Raises:
            CommitConflictError: an earlier attempt gave other bytes.
            DamagedError: the bytes read back are not those written.
            ValueError: wrong shape or type.
        """
        began = time.monotonic() if started is None else started
        if x.shape != self.chunk_shape or x.dtype != self.plan.dtype:
            raise ValueError(f"a chunk must be {self.plan.dtype} {self.chunk_shape}, got {x.dtype} {x.shape}")
        start = chunk * self.plan.chunk_rows
        stop = start + self.plan.chunk_rows
        whole = self._spanning(stop)
        whole[start:stop] = x
        file = self._file(chunk)
        sync_file(file)
        sync_folder(file.parent)
        if not np.array_equal(whole[start:stop], x):
            raise DamagedError(f"chunk {chunk} reads back other values than were written to {file}; check the disk")
        commit = Commit(
            chunk=chunk,
            start=start,
            stop=stop,
            files={self._name(chunk): digest_file(file)},
            bytes=file.stat().st_size,
            plan=self._fingerprint,
            attempt=uuid.uuid4().hex[:12],
            seconds=round(time.monotonic() - began, 4),
            host=os.uname().nodename,
        )
        self.ledger.publish(commit)
        return commit

    def read_chunk(self, chunk: int, *, out: Floats | None = None) -> Floats:
        """Give the visible trajectories of a committed chunk, ``[rows, times, *dim]``, checked by CRC32C.

        Args:
            chunk: its index.
            out: a buffer of at least these rows, filled and given back as a view.

        Raises:
            IncompleteError: the chunk is not committed.
            DamagedError: its bytes fail the checksum or are gone.
        """
        rows = self.grid(self.rows).chunk(chunk)
        if not self._is_committed(chunk):
            raise IncompleteError(f"chunk {chunk} of {self.path} is not committed; run the integrate step again")
        if not self._file(chunk).exists():  # zarr would give the fill value
            raise DamagedError(f"chunk {chunk} of {self.path} has lost its bytes; run charflow verify --repair")
        try:
            x = np.asarray(self._array[rows.start : rows.stop])
        except (ValueError, RuntimeError) as error:
            raise DamagedError(f"chunk {chunk} of {self.path} is damaged; run charflow verify --repair") from error
        if out is None:
            return x
        out[: rows.rows] = x
        return out[: rows.rows]

    def read_rows(self, start: int, stop: int) -> Floats:
        """Give trajectories ``start <= row < stop`` through committed chunks, ``[stop - start, times, *dim]``."""
        grid = self.grid(self.rows)
        size = self.plan.chunk_rows
        parts = []
        for chunk in range(start // size, -(-stop // size)):
            shard = grid.chunk(chunk)
            low, high = max(start, shard.start), min(stop, shard.stop)
            parts.append(self.read_chunk(chunk)[low - shard.start : high - shard.start])
        return np.concatenate(parts)

    def verify(self, *, rows: int) -> Verification:
        """Recompute the digest of every chunk that the first ``rows`` rows need."""
        chunks = self.grid(rows).count
        missing = self.ledger.missing(chunks)
        absent = set(missing)
        bad = [chunk for chunk in range(chunks) if chunk not in absent and not self._is_sound(chunk)]
        return Verification(chunks=chunks, bad=tuple(bad), missing=tuple(missing))

    def retract(self, chunk: int) -> None:
        """Delete a chunk's record, then its bytes, so that the integrate step makes it anew."""
        self.ledger.retract(chunk)
        self._file(chunk).unlink(missing_ok=True)

    def seal(self, *, rows: int) -> Manifest:
        """Publish the manifest over the first ``rows`` rows.

        Raises:
            IncompleteError: a chunk is not committed.
        """
        return self.ledger.seal(rows=rows, chunks=self.grid(rows).count)

    def _is_committed(self, chunk: int) -> bool:
        return (self.ledger.folder / "commits" / f"{chunk:08d}.json").exists()

    def _is_sound(self, chunk: int) -> bool:
        try:
            commit = self.ledger.read(chunk)
        except DamagedError:
            return False
        file = self._file(chunk)
        return (
            commit.chunk == chunk
            and commit.plan == self._fingerprint
            and file.exists()
            and commit.files == {self._name(chunk): digest_file(file)}
        )

    def _spanning(self, rows: int) -> Any:
        """The array as if it spanned ``rows`` rows, for writing a last chunk whole; the shape on disk stays."""
        inner = self._array.async_array
        metadata = replace(inner.metadata, shape=(max(rows, self.rows), *inner.metadata.shape[1:]))
        return zarr.Array(AsyncArray(metadata=metadata, store_path=inner.store_path, config=inner.config))

    def _name(self, chunk: int) -> str:
        return "/".join(["x", "c", str(chunk), *["0"] * (1 + len(self.plan.dim))])

    def _file(self, chunk: int) -> Path:
        return self.path / self._name(chunk)


def row_bytes(plan_dim: tuple[int, ...], *, times: int, dtype: str) -> int:
    """Give the bytes of one stored trajectory."""
    return times * math.prod(plan_dim) * np.dtype(dtype).itemsize


def _lay_out(path: Path, plan: TrajectoryPlan, *, rows: int) -> None:
    """Make the group and its arrays where they are absent; ``x`` comes last, so its presence means all is there."""
    if (path / "x" / "zarr.json").exists():
        return
    group = zarr.open_group(path, mode="a", zarr_format=3)
    group.update_attributes({"charflow": _plan_to_json(plan)})
    times = np.asarray(plan.times, dtype=np.float64)
    group.create_array("t", data=times, chunks=times.shape, dimension_names=("time",), overwrite=True)
    try:
        group.create_array(
            "x",
            shape=(rows, len(times), *plan.dim),
            chunks=(plan.chunk_rows, len(times), *plan.dim),
            dtype=plan.dtype,
            compressors=[*_compressors(plan), Crc32cCodec()],
            fill_value=float("nan"),  # a chunk that is not there must not look like data
            dimension_names=("row", "time", *[f"axis_{k}" for k in range(len(plan.dim))]),
        )
    except ContainsArrayError:
        logger.debug("another process laid out %s", path)


def _compressors(plan: TrajectoryPlan) -> list[BloscCodec]:
    """Bitshuffle before the compressor: the exponents of neighbours agree, the mantissas' last bits never do."""
    match plan.codec:
        case "none":
            return []
        case "lz4" | "zstd":
            size = np.dtype(plan.dtype).itemsize
            return [BloscCodec(cname=plan.codec, clevel=1, shuffle="bitshuffle", typesize=size)]
    raise ValueError(f"trajectories.codec must be one of {', '.join(CODECS)}, got {plan.codec!r}")


def _plan_to_json(plan: TrajectoryPlan) -> dict[str, Any]:
    return asdict(plan) | {"dim": list(plan.dim), "times": list(plan.times)}


def _plan_from_json(found: dict[str, Any]) -> TrajectoryPlan:
    fields = {key: value for key, value in found.items() if key != "version"}
    return TrajectoryPlan(**(fields | {"dim": tuple(fields["dim"]), "times": tuple(fields["times"])}))
