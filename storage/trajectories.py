"""Trajectories in a Zarr v3 group that any Zarr reader can open: ``x [rows, times, *dim]`` and ``t [times]``.

One chunk holds whole trajectories, so one read serves every pair of a row. Where the plan has classes there is also
``label [rows]``, cut like ``x``: a chunk is then two files (arrays.py) and still one record, by DESIGN.md's protocol.
"""

import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.bitround import BitRound
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from storage.arrays import ChunkedArray
from storage.atomic import create_exclusive, sweep
from storage.checksum import digest, digest_file
from storage.chunks import ChunkGrid, Shard
from storage.commits import Commit, Ledger, Manifest
from storage.errors import DamagedError, IncompleteError
from storage.fingerprint import fingerprint
from storage.paths import Location, each, ledger_path
from storage.remote import AT_ONCE, PIECE_BYTES
from storage.specs import CODECS, SCHEMA_VERSION, TrajectoryPlan

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int64]

_OF_CLASSES = frozenset({"class_shares", "unlabelled_share", "guidance"})  # fields of the plan
_SILENT = frozenset({"grid_times", "mantissa_bits", "matmul", "is_compiled"})  # fields that say nothing where empty
_HELD_BYTES = 128 * 2**20  # of chunks of an object store that are digested at once, each in pieces
NO_CHUNK = -2  # the label that a reader finds where a chunk is not there; -1 is a row without a class


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

    def __init__(self, path: Location, plan: TrajectoryPlan, *, ledger: Ledger, fingerprint: str) -> None:
        self.path = path
        self.plan = plan
        self.ledger = ledger
        self._fingerprint = fingerprint
        self._x = ChunkedArray(path, "x", chunk_shape=self.chunk_shape, dtype=plan.dtype)
        self._arrays = [self._x]
        if plan.is_conditional:
            self._label = ChunkedArray(path, "label", chunk_shape=(plan.chunk_rows,), dtype="int64")
            self._arrays.insert(0, self._label)  # x comes last: no row is seen without its label

    @classmethod
    def create(cls, path: Location, plan: TrajectoryPlan, *, rows: int) -> "TrajectoryStore":
        """Open the store of a plan for ``rows`` rows or more, making or growing it where needed.

        Raises:
            PlanConflictError: a store of another plan lies here; nothing was changed.
        """
        files = layout(plan, rows=rows)  # before anything is written: a plan that Zarr refuses leaves no trace
        ledger = Ledger(ledger_path(path))
        mark = ledger.establish(_plan_to_json(plan))
        for name, content in files.items():
            if not (path / name).is_file():
                create_exclusive(path / name, content)
        store = cls(path, plan, ledger=ledger, fingerprint=mark)
        store._grow(rows)
        return store

    @classmethod
    def open(cls, path: Location) -> "TrajectoryStore":
        """Open an existing store.

        Raises:
            IncompleteError: there is none.
            DamagedError: its plan or an array's description makes no sense.
        """
        ledger = Ledger(ledger_path(path))
        found = ledger.plan()
        return cls(path, _plan_from_json(found), ledger=ledger, fingerprint=fingerprint(found))

    @property
    def rows(self) -> int:
        """Number of trajectories that the array spans."""
        return self._x.rows

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a whole chunk, ``(chunk_rows, times, *dim)``."""
        return (self.plan.chunk_rows, len(self.plan.times), *self.plan.dim)

    def grid(self, rows: int) -> ChunkGrid:
        """Give the chunks of the first ``rows`` trajectories."""
        return ChunkGrid(rows, self.plan.chunk_rows)

    def write_chunk(
        self,
        chunk: int,
        x: Floats,
        *,
        label: Labels | None = None,
        started: float | None = None,
        arithmetic: str = "",
        node: str = "",
    ) -> Commit:
        """Write, make durable, read back and commit one whole chunk ``x`` of :attr:`chunk_shape`.

        Safe to run twice or at once in two processes: the bytes are the same, and one record wins.

        Args:
            chunk: its index; it may lie in the array's last, partly visible chunk.
            x: the trajectories; not kept.
            label: of each row, ``[chunk_rows]``, where the plan has classes, else None.
            started: ``time.monotonic()`` when the work began, for the record.
            arithmetic: of the machine, for the record.
            node: of a cluster, likewise.

        Raises:
            CommitConflictError: an earlier attempt gave other bytes.
            DamagedError: the bytes read back are not those written.
            OSError: the disk is full, or may not be written; the message names the chunk.
            ValueError: wrong shape or type, or labels where there are none, or none where there are.
        """
        began = time.monotonic() if started is None else started
        shard = Shard(chunk * self.plan.chunk_rows, (chunk + 1) * self.plan.chunk_rows)
        contents = [array.encode(values) for array, values in zip(self._arrays, self._values(x, label), strict=True)]
        digests = [digest(content) for content in contents]
        with self._naming(chunk):
            if not self.ledger.is_committed(chunk):  # committed bytes are never touched, by other bytes least of all
                for array, content in zip(self._arrays, contents, strict=True):
                    array.write(chunk, content)
            commit = Commit(
                chunk=chunk,
                start=shard.start,
                stop=shard.stop,
                files={array.key(chunk): found for array, found in zip(self._arrays, digests, strict=True)},
                bytes=sum(len(content) for content in contents),
                plan=self._fingerprint,
                attempt=uuid.uuid4().hex[:12],
                seconds=round(time.monotonic() - began, 4),
                host=os.uname().nodename,
                node=node,
                arithmetic=arithmetic,
            )
            self.ledger.publish(commit)
        return commit

    def read_chunk(self, chunk: int, *, out: Floats | None = None) -> Floats:
        """Give the visible trajectories of a committed chunk, ``[rows, times, *dim]``, checked by CRC32C.

        Args:
            chunk: its index.
            out: of :attr:`chunk_shape`, contiguous; a whole chunk is read into it, whose visible part is given back.

        Raises:
            IncompleteError: the chunk is not committed.
            DamagedError: its bytes fail the checksum or are gone.
            ValueError: ``out`` has another shape or type, or gaps.
        """
        return self._read(self._x, chunk, out=out)

    def read_labels(self, chunk: int, *, out: Labels | None = None) -> Labels:
        """Give the labels of the visible rows of a committed chunk, ``[rows]``; -1 is a row without a class.

        Args:
            chunk: its index.
            out: ``[chunk_rows]``, contiguous; as in :meth:`read_chunk`.

        Raises:
            IncompleteError: the chunk is not committed.
            DamagedError: its bytes fail the checksum or are gone.
            ValueError: the plan has no classes, or ``out`` has another shape or type, or gaps.
        """
        if not self.plan.is_conditional:
            raise ValueError(f"{self.path} holds no labels; its plan has no classes")
        return self._read(self._label, chunk, out=out)

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

    def verify(self, *, rows: int, is_quick: bool = False) -> Verification:
        """Recompute the digest of every chunk that the first ``rows`` rows need.

        Args:
            rows: of the store.
            is_quick: look at records and sizes only, which finds what is gone or cut short and reads no trajectory.
        """
        chunks = self.grid(rows).count
        missing = self.ledger.missing(chunks)
        absent = set(missing)
        present = [chunk for chunk in range(chunks) if chunk not in absent]
        sound = self._each(partial(self._is_sound, is_quick=is_quick), present, is_quick=is_quick)
        bad = [chunk for chunk, is_sound in zip(present, sound, strict=True) if not is_sound]
        return Verification(chunks=chunks, bad=tuple(bad), missing=tuple(missing))

    def retract(self, chunk: int) -> None:
        """Delete a chunk's record, then its bytes, so that the integrate step makes it anew."""
        self.ledger.retract(chunk)
        for array in self._arrays:
            array.file(chunk).unlink(missing_ok=True)

    def seal(self, *, rows: int) -> Manifest:
        """Publish the manifest over the first ``rows`` rows.

        Raises:
            IncompleteError: a chunk is not committed.
        """
        self._grow(rows)  # again: a process that grew it less may have had the last word
        return self.ledger.seal(rows=rows, chunks=self.grid(rows).count)

    def sealed(self, rows: int) -> Manifest:
        """Give the manifest that a seal over just the first ``rows`` rows has, however many more are sealed.

        It stays as the store grows, and is another one once a byte of these rows is.

        Raises:
            IncompleteError: the store is not sealed over so many rows.
        """
        manifest = self.ledger.manifest()
        if manifest is None or manifest.rows < rows:
            found = "not sealed" if manifest is None else f"sealed over {manifest.rows} rows"
            raise IncompleteError(
                f"{self.path} is {found}, asked for {rows}; run the integrate step, or charflow verify --repair"
            )
        return self.ledger.part(manifest, rows=rows, chunks=self.grid(rows).count)

    def promised(self, rows: int) -> dict[str, Any]:
        """Give what a seal over the first ``rows`` rows will say but for its digest: the same before and after it."""
        return {"rows": rows, "chunks": self.grid(rows).count, "plan": self._fingerprint}

    def sweep(self) -> int:
        """Delete temporary files of writers that died, and tell how many; call when no writer is at work."""
        return sweep(self.path) + self.ledger.sweep()

    @contextmanager
    def _naming(self, chunk: int) -> Iterator[None]:
        """Say which chunk a disk did not take, and what to do."""
        try:
            yield
        except OSError as error:
            if error.errno is None:  # one of ours, which says it all
                raise
            raise OSError(
                error.errno,
                f"chunk {chunk} of {self.path} could not be written ({error.strerror}); what is committed is kept: "
                "mend that, and run the same command again",
            ) from error

    def _values(self, x: Floats, label: Labels | None) -> list[npt.NDArray[Any]]:
        """Give a chunk's values in the order of the arrays."""
        if (label is not None) != self.plan.is_conditional:
            needed = "needs labels, got none" if self.plan.is_conditional else "has no classes, got labels"
            raise ValueError(f"a chunk of {self.path} {needed}")
        x = rounded(self.plan, x)
        return [x] if label is None else [label, x]

    def _read(self, array: ChunkedArray, chunk: int, *, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        rows = self.grid(self.rows).chunk(chunk).rows
        if not self.ledger.is_committed(chunk):
            raise IncompleteError(f"chunk {chunk} of {self.path} is not committed; run the integrate step again")
        return array.read(chunk, out=out)[:rows]

    def _each(self, look: Callable[[int], bool], chunks: Sequence[int], *, is_quick: bool) -> Iterable[bool]:
        """Look at chunks one by one on a disk; on an object store at as many at once as the memory may hold."""
        held = row_bytes(self.plan.dim, times=len(self.plan.times), dtype=self.plan.dtype) * self.plan.chunk_rows
        workers = AT_ONCE if is_quick else max(1, min(AT_ONCE, _HELD_BYTES // min(held, PIECE_BYTES)))
        return each(look, chunks, place=self.path, workers=workers)

    def _is_sound(self, chunk: int, *, is_quick: bool) -> bool:
        try:
            commit = self.ledger.read(chunk)
            files = {array.key(chunk): array.file(chunk) for array in self._arrays}
            return commit == replace(
                commit,
                chunk=chunk,
                start=chunk * self.plan.chunk_rows,
                stop=(chunk + 1) * self.plan.chunk_rows,
                bytes=sum(file.stat().st_size for file in files.values()),
                files={
                    name: commit.files.get(name, "") if is_quick else digest_file(file) for name, file in files.items()
                },
                plan=self._fingerprint,
            )
        except (DamagedError, FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return False

    def _grow(self, rows: int) -> None:
        for array in self._arrays:
            array.grow(rows)


def row_bytes(plan_dim: tuple[int, ...], *, times: int, dtype: str) -> int:
    """Give the bytes of one stored trajectory."""
    return times * math.prod(plan_dim) * np.dtype(dtype).itemsize


def rounded(plan: TrajectoryPlan, x: Floats) -> Floats:
    """Give the values of a chunk with as many mantissa bits as the plan keeps; ``x`` itself where it keeps all."""
    return BitRound(keepbits=plan.mantissa_bits).encode(x.copy()).view(x.dtype) if plan.mantissa_bits else x


def layout(plan: TrajectoryPlan, *, rows: int) -> dict[str, bytes]:
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
    if plan.is_conditional:
        group.create_array(
            "label",
            shape=(rows,),
            chunks=(plan.chunk_rows,),
            dtype="int64",
            compressors=[Crc32cCodec()],
            fill_value=NO_CHUNK,
            dimension_names=("row",),
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
    """Give the plan as it is kept, without a word of what it does not use, as before there was any."""
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(plan).items()}
    silent = {key for key in _SILENT if not found[key]} | (set() if plan.is_conditional else _OF_CLASSES)
    return {key: value for key, value in found.items() if key not in silent}


def _plan_from_json(found: dict[str, Any]) -> TrajectoryPlan:
    fields = {key: value for key, value in found.items() if key != "version"}
    try:
        tuples = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
        return TrajectoryPlan(**(fields | tuples))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"the ledger's plan is no plan of trajectories: {error}; use another run name") from error
