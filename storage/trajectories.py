"""Trajectories in a Zarr v3 group that any Zarr reader can open: ``x [rows, times, *dim]`` and ``t [times]``.

One chunk holds whole trajectories, so one read serves every pair of a row. A chunk's file always holds ``chunk_rows``
trajectories, also where the array ends inside it: growth changes the array's shape and no chunk. Zarr encodes and
decodes in memory; files are written, synced and read here, so that DESIGN.md's commit protocol holds for each of them.
"""

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
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore, StorePath

from storage.atomic import create_exclusive, sweep, sync_folder, write_atomic
from storage.checksum import digest, digest_file
from storage.chunks import ChunkGrid, Shard
from storage.commits import Commit, Ledger, Manifest
from storage.errors import DamagedError, IncompleteError
from storage.fingerprint import fingerprint
from storage.paths import ledger_path
from storage.specs import CODECS, SCHEMA_VERSION, TrajectoryPlan

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
        self._array: Any = self._open_array()

    @classmethod
    def create(cls, path: Path, plan: TrajectoryPlan, *, rows: int) -> "TrajectoryStore":
        """Open the store of a plan for ``rows`` rows or more, making or growing it where needed.

        Raises:
            PlanConflictError: a store of another plan lies here; nothing was changed.
        """
        layout = _layout(plan, rows=rows)  # before anything is written: a plan that Zarr refuses leaves no trace
        ledger = Ledger(ledger_path(path))
        mark = ledger.establish(_plan_to_json(plan))
        for name, content in layout.items():
            if not (path / name).exists():
                create_exclusive(path / name, content)
        store = cls(path, plan, ledger=ledger, fingerprint=mark)
        store._grow(rows)
        return store

    @classmethod
    def open(cls, path: Path) -> "TrajectoryStore":
        """Open an existing store.

        Raises:
            IncompleteError: there is none.
            DamagedError: its plan or the array's description makes no sense.
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
        shard = Shard(chunk * self.plan.chunk_rows, (chunk + 1) * self.plan.chunk_rows)
        content = self._encode(x)
        promised = digest(content)
        if not self.ledger.is_committed(chunk):  # committed bytes are never touched, by other bytes least of all
            self._write_file(chunk, content, promised=promised)
        commit = Commit(
            chunk=chunk,
            start=shard.start,
            stop=shard.stop,
            files={self._name(chunk): promised},
            bytes=len(content),
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
        if not self.ledger.is_committed(chunk):
            raise IncompleteError(f"chunk {chunk} of {self.path} is not committed; run the integrate step again")
        try:
            x = self._decode(self._file(chunk).read_bytes())[: rows.rows]
        except FileNotFoundError as error:  # where zarr would give the fill value
            raise DamagedError(
                f"chunk {chunk} of {self.path} has lost its bytes; run charflow verify --repair"
            ) from error
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
        self._grow(rows)  # again: a process that grew it less may have had the last word
        return self.ledger.seal(rows=rows, chunks=self.grid(rows).count)

    def sweep(self) -> int:
        """Delete temporary files of writers that died, and tell how many; call when no writer is at work."""
        return sweep(self.path) + self.ledger.sweep()

    def _is_sound(self, chunk: int) -> bool:
        try:
            commit = self.ledger.read(chunk)
        except DamagedError:
            return False
        file = self._file(chunk)
        if not file.is_file():
            return False
        return commit == replace(
            commit,
            chunk=chunk,
            start=chunk * self.plan.chunk_rows,
            stop=(chunk + 1) * self.plan.chunk_rows,
            files={self._name(chunk): digest_file(file)},
            bytes=file.stat().st_size,
            plan=self._fingerprint,
        )

    def _open_array(self) -> Any:
        try:
            array = zarr.open_array(self.path / "x", mode="r")
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(
                f"{self.path / 'x' / 'zarr.json'} is no array's; delete it and run the integrate step again"
            ) from error
        if (array.chunks, array.dtype) != (self.chunk_shape, np.dtype(self.plan.dtype)):
            raise DamagedError(f"{self.path / 'x'} is laid out otherwise than planned; use another run name")
        return array

    def _grow(self, rows: int) -> None:
        """Make the array span ``rows`` rows or more, durably; no chunk is touched."""
        self._array = self._open_array()
        if self.rows < rows:
            metadata = replace(self._array.metadata, shape=(rows, *self._array.shape[1:]))
            for name, content in metadata.to_buffer_dict(default_buffer_prototype()).items():
                write_atomic(self.path / "x" / name, content.to_bytes())
            self._array = self._open_array()

    def _write_file(self, chunk: int, content: bytes, *, promised: str) -> None:
        """Write a chunk's file, make it and every folder above it durable, and read it back."""
        file = self._file(chunk)
        write_atomic(file, content)
        for folder in file.parents[1 : len(file.relative_to(self.path).parts)]:  # one that a dead attempt made, too
            sync_folder(folder)
        if digest_file(file) != promised:
            raise DamagedError(f"chunk {chunk} reads back other bytes than were written to {file}; check the disk")

    def _encode(self, x: Floats) -> bytes:
        """Give the bytes of a whole chunk's file, whichever chunk it is."""
        file: dict[str, Buffer] = {}
        self._one_chunk(file)[...] = x
        (content,) = file.values()
        return content.to_bytes()

    def _decode(self, content: bytes) -> Floats:
        """Give the whole chunk that a file's bytes hold; ``ValueError`` if the checksum fails."""
        name = self._array.metadata.encode_chunk_key((0,) * len(self.chunk_shape))
        return np.asarray(self._one_chunk({name: default_buffer_prototype().buffer.from_bytes(content)})[...])

    def _one_chunk(self, files: dict[str, Buffer]) -> Any:
        """Give an array of one chunk in memory, encoded as ``x`` is."""
        inner = self._array.async_array
        metadata = replace(inner.metadata, shape=self.chunk_shape)
        config = replace(inner.config, write_empty_chunks=True)
        return zarr.Array(AsyncArray(metadata=metadata, store_path=StorePath(MemoryStore(files)), config=config))

    def _name(self, chunk: int) -> str:
        return "/".join(["x", "c", str(chunk), *["0"] * (1 + len(self.plan.dim))])

    def _file(self, chunk: int) -> Path:
        return self.path / self._name(chunk)


def row_bytes(plan_dim: tuple[int, ...], *, times: int, dtype: str) -> int:
    """Give the bytes of one stored trajectory."""
    return times * math.prod(plan_dim) * np.dtype(dtype).itemsize


def _layout(plan: TrajectoryPlan, *, rows: int) -> dict[str, bytes]:
    """Give the files of an empty store by name; ``x``'s comes last, so its presence means that all are there."""
    files: dict[str, Buffer] = {}
    attributes = {"charflow": {"version": SCHEMA_VERSION, **_plan_to_json(plan)}}
    group = zarr.create_group(MemoryStore(files), zarr_format=3, attributes=attributes)
    times = np.asarray(plan.times, dtype=np.float64)
    group.create_array("t", data=times, chunks=times.shape, compressors=[Crc32cCodec()], dimension_names=("time",))
    group.create_array(
        "x",
        shape=(rows, len(times), *plan.dim),
        chunks=(plan.chunk_rows, len(times), *plan.dim),
        dtype=plan.dtype,
        compressors=[*_compressors(plan), Crc32cCodec()],
        fill_value=float("nan"),  # a chunk that is not there must not look like data
        dimension_names=("row", "time", *[f"axis_{k}" for k in range(len(plan.dim))]),
    )
    return {name: files[name].to_bytes() for name in sorted(files, key=lambda name: (name.startswith("x/"), name))}


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
    try:
        return TrajectoryPlan(**(fields | {"dim": tuple(fields["dim"]), "times": tuple(fields["times"])}))
    except (KeyError, TypeError) as error:
        raise DamagedError(f"the ledger's plan is no plan of trajectories: {error}; use another run name") from error
