"""Which chunks each epoch of a training covers while its store still grows.

What is committed when an epoch begins depends on the hour, so it is recorded: a small create-only file an epoch, beside
the checkpoints of the training. Of any number of workers one writes it, all read it, and a restart reads it again. Once
all chunks are in an epoch, they are in every later one, and nothing more is recorded.
"""

import json
import os
import threading
import time
from dataclasses import dataclass
from itertools import count
from types import TracebackType

import numpy as np

from storage.atomic import create_exclusive, write_atomic
from storage.errors import DamagedError, HaltedError, StreamConflictError
from storage.ordering import Indices, admit
from storage.paths import Location
from storage.records import pretty, require_known_version
from storage.specs import SCHEMA_VERSION
from storage.trajectories import TrajectoryStore

_LOOK_SECONDS = 0.2  # between looks for a record that is waited for
_LIST_SHARE = 0.05  # of that time that goes into listing the ledger, at most; a large one is slow to list
_WATCH_SECONDS = 5.0  # between looks whether anybody simulates, while there is enough to read


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a training reads a store that others still write.

    Attributes:
        folder: of the records, the training's own.
        until: position, over all epochs, from which on all chunks are needed.
    """

    folder: Location
    until: int

    def is_going_on(self) -> bool:
        """Tell whether more chunks may come."""
        return _mark(self.folder).is_file()

    def recorded(self, epoch: int, *, chunks: int) -> Indices | None:
        """Give the chunks of an epoch, ascending; None where nothing is recorded yet.

        Raises:
            DamagedError: the record is none of a store of so many chunks.
        """
        path = self._path(epoch)
        try:
            found = json.loads(path.read_bytes())
            require_known_version(path, found["version"])
            admitted = np.concatenate([np.arange(first, stop) for first, stop in found["chunks"]])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{path} is no record of chunks; delete {self.folder.parent} to train anew") from error
        if not len(admitted) or admitted[0] < 0 or admitted[-1] >= chunks or (np.diff(admitted) < 1).any():
            raise DamagedError(f"{path} names other chunks than the {chunks} of the store, or names one twice")
        return admitted

    def record(self, epoch: int, admitted: Indices) -> None:
        """Keep the chunks of an epoch, ascending, unless some are recorded; look which are."""
        edges = np.flatnonzero(np.diff(admitted) != 1) + 1
        ranges = [[int(run[0]), int(run[-1]) + 1] for run in np.split(admitted, edges)]  # half-open
        create_exclusive(self._path(epoch), pretty({"version": SCHEMA_VERSION, "epoch": epoch, "chunks": ranges}))

    def _path(self, epoch: int) -> Location:
        return self.folder / f"epoch-{epoch:06d}.json"


def begin_growth(folder: Location) -> None:
    """Tell the training whose records lie in a folder that chunks will come, until :func:`end_growth`."""
    write_atomic(_mark(folder), pretty({"host": os.uname().nodename, "pid": os.getpid()}))


def end_growth(folder: Location) -> None:
    """Tell it that no more will come; where the store is not sealed by now, it gives up."""
    _mark(folder).unlink(missing_ok=True)


def _mark(folder: Location) -> Location:
    """Give the file that is there while somebody simulates: the end is a deletion, since a full disk takes no file."""
    return folder / "growing.json"


class Admissions:
    """The chunks of each epoch, asked for by calling it; leaving it ends all waiting for them."""

    def __init__(self, store: TrajectoryStore, growth: Growth, *, rows: int, visits: int) -> None:
        self._store, self._growth = store, growth
        self._grid, self._visits = store.grid(rows), visits
        self._epochs: list[Indices] = []
        self._start = 0  # positions before the next epoch
        self._lock = threading.Lock()
        self._is_left = threading.Event()
        self._watched = time.monotonic()

    def __enter__(self) -> "Admissions":
        """Give the admissions themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait no more."""
        self._is_left.set()

    def __call__(self, epoch: int) -> Indices:
        """Give the chunks of an epoch, waiting for them where that is needed.

        Raises:
            HaltedError: they will not come.
            DamagedError: a record is none.
        """
        with self._lock:
            while epoch >= len(self._epochs) and not self._is_complete:
                self._add(self._admitted(len(self._epochs)))
            return self._epochs[min(epoch, len(self._epochs) - 1)]

    def require_recorded(self, epoch: int) -> None:
        """Refuse a place in an epoch that is not recorded: its rows are no longer known.

        Raises:
            StreamConflictError: it, or one before it, is not.
            DamagedError: a record is none.
        """
        for earlier in count(len(self._epochs)):
            if earlier > epoch or self._is_complete:
                return
            found = self._recorded(earlier)
            if found is None:
                raise StreamConflictError(
                    f"the stream cannot go on in epoch {epoch}: {self._growth.folder} has no record of epoch {earlier}"
                )
            self._add(found)

    def watch(self) -> None:
        """Look now and then whether the chunks that are missing can still come.

        Raises:
            HaltedError: they cannot.
        """
        if not self._is_complete and time.monotonic() - self._watched >= _WATCH_SECONDS:
            self._require_growth()
            self._watched = time.monotonic()

    @property
    def _is_complete(self) -> bool:
        return bool(self._epochs) and len(self._epochs[-1]) == self._grid.count

    def _add(self, admitted: Indices) -> None:
        self._epochs.append(admitted)
        self._start += self._visits * sum(self._grid.chunk(int(chunk)).rows for chunk in admitted)

    def _admitted(self, epoch: int) -> Indices:
        """Give the chunks of the next epoch; of those who find enough of them the first to record it has its way."""
        due = began = time.monotonic()
        while (found := self._recorded(epoch)) is None:
            if began >= due:
                admitted = admit(
                    self._committed(),
                    grid=self._grid,
                    visits=self._visits,
                    start=self._start,
                    until=self._growth.until,
                )
                if admitted is not None:
                    self._growth.record(epoch, admitted)
                    continue
                self._require_growth()
                now = time.monotonic()
                due = now + (now - began) / _LIST_SHARE
            if self._is_left.wait(_LOOK_SECONDS):
                raise HaltedError(f"nobody reads {self._store.path} any more")
            began = time.monotonic()
        return found

    def _recorded(self, epoch: int) -> Indices | None:
        return self._growth.recorded(epoch, chunks=self._grid.count)

    def _committed(self) -> Indices:
        found = sorted(chunk for chunk in self._store.ledger.committed() if chunk < self._grid.count)
        return np.array(found, dtype=np.int64)

    def _require_growth(self) -> None:
        """Raise where nobody simulates and the store is not sealed over the rows.

        The mark is looked for first: it goes after the seal has come.
        """
        if self._growth.is_going_on():
            return
        manifest = self._store.ledger.manifest()
        if manifest is None or manifest.rows < self._grid.rows:
            raise HaltedError(f"{self._store.path} is not sealed, and nobody simulates; run the integrate step again")
