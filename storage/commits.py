"""The ledger of a store: what was planned, what is done, what is sealed.

The one idea to know: a chunk is done when its commit record exists, and the record is published after the chunk's bytes
are durable. Records are create-only, so of two attempts one wins and the other finds out. See DESIGN.md for what a
crash leaves at each step.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from storage.atomic import create_exclusive, sweep, sync_folder, write_atomic
from storage.checksum import digest
from storage.errors import CommitConflictError, DamagedError, IncompleteError, PlanConflictError
from storage.fingerprint import canonical, fingerprint
from storage.paths import Location, each
from storage.records import pretty, require_known_version
from storage.remote import RemotePath
from storage.specs import SCHEMA_VERSION

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The record that makes one chunk true."""

    chunk: int
    start: int  # first row
    stop: int  # one past the last row
    files: Mapping[str, str]  # name inside the store -> digest of its bytes
    bytes: int  # of all its files
    plan: str  # fingerprint of the plan
    attempt: str  # who wrote it; for people
    seconds: float  # simulation and writing, wall time
    host: str
    node: str = ""  # of a Ray cluster, by its id there; a host may run several. Empty: none
    arithmetic: str = ""  # what that host makes of the velocity to the last bit; of older records unknown

    @property
    def rows(self) -> int:
        """Number of trajectories."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The seal of a store: every chunk of its first ``rows`` rows is committed."""

    rows: int
    chunks: int
    plan: str  # fingerprint of the plan
    digest: str  # of all the chunks' digests, in order


class Ledger:
    """Plan, commit records and manifest, as JSON files in one folder."""

    def __init__(self, folder: Location) -> None:
        self.folder = folder
        self._commits = folder / "commits"
        self._records = str(self._commits)

    def establish(self, plan: Mapping[str, Any]) -> str:
        """Write the plan unless there is one, and give its fingerprint.

        Raises:
            PlanConflictError: the plan that lies here is another; nothing was changed.
        """
        content = {"version": SCHEMA_VERSION, **plan}
        path = self.folder / "plan.json"
        if not create_exclusive(path, pretty(content)):
            found = _read(path)
            differing = sorted(key for key in content | found if _json(content.get(key)) != _json(found.get(key)))
            if differing:
                key = differing[0]
                raise PlanConflictError(
                    f"{path} plans {key} = {found.get(key)!r}, asked for {content.get(key)!r}; use another run name"
                )
        return fingerprint(content)

    def plan(self) -> dict[str, Any]:
        """Give the plan.

        Raises:
            IncompleteError: there is none.
        """
        path = self.folder / "plan.json"
        try:
            return _read(path)
        except FileNotFoundError as error:
            raise IncompleteError(f"{path} is missing; run the integrate step first") from error

    def publish(self, commit: Commit) -> bool:
        """Record a chunk whose bytes are durable; tell whether this attempt was the first.

        Raises:
            CommitConflictError: an earlier attempt recorded other bytes.
        """
        path = self._path(commit.chunk)
        if create_exclusive(path, pretty(asdict(commit))):
            return True
        found = self.read(commit.chunk)
        if (found.files, found.plan) != (commit.files, commit.plan):
            raise CommitConflictError(
                f"chunk {commit.chunk} is recorded with other bytes in {path}; "
                "two machines or library versions disagree: verify the run, then repair it"
            )
        return False

    def read(self, chunk: int) -> Commit:
        """Give one record.

        Raises:
            IncompleteError: the chunk is not committed.
            DamagedError: the record cannot be read.
        """
        path = f"{self._records}/{chunk:08d}.json"  # a Path would take as long to make as the file to read
        try:
            return Commit(**_read(self._path(chunk) if isinstance(self._commits, RemotePath) else path))
        except FileNotFoundError:
            raise IncompleteError(
                f"chunk {chunk} is not committed in {self.folder}; run the integrate step again"
            ) from None
        except TypeError as error:
            raise DamagedError(f"{path} is no commit record; run charflow verify --repair") from error

    def read_many(self, chunks: Iterable[int]) -> Iterator[Commit]:
        """Give the records of chunks in order, from an object store many at once.

        Raises:
            IncompleteError: a chunk is not committed.
            DamagedError: a record cannot be read.
        """
        return each(self.read, chunks, place=self.folder)

    def is_committed(self, chunk: int) -> bool:
        """Tell whether a chunk has a record."""
        return self._path(chunk).is_file()

    def committed(self) -> set[int]:
        """Give the chunks that have a record."""
        try:
            names = _names(self._commits)
        except FileNotFoundError:
            return set()
        return {int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()}

    def missing(self, chunks: int) -> list[int]:
        """Give those of the first ``chunks`` chunks that have no record, ascending."""
        done = self.committed()
        return [chunk for chunk in range(chunks) if chunk not in done]

    def retract(self, chunk: int) -> None:
        """Remove a record, before its bytes; for repair alone."""
        if self._digests.is_file():  # first: what it says of this chunk may soon be wrong
            self._digests.unlink(missing_ok=True)
            sync_folder(self.folder)
        self._path(chunk).unlink(missing_ok=True)
        if self._commits.exists():
            sync_folder(self._commits)

    def seal(self, *, rows: int, chunks: int) -> Manifest:
        """Publish the manifest over the first ``chunks`` chunks, or over as many as were sealed before.

        Raises:
            IncompleteError: a chunk is not committed.
        """
        missing = self.missing(chunks)
        if missing:
            raise IncompleteError(f"chunk {missing[0]} of {chunks} is not committed in {self.folder}; run again")
        before = self._earlier_manifest()
        if before is not None and before.rows > rows and not self.missing(before.chunks):
            rows, chunks = before.rows, before.chunks  # a smaller request must not unseal what others train on
        known = self._sealed_digests(before)
        content = self._digests_of(chunks, known=known)
        manifest = Manifest(rows=rows, chunks=chunks, plan=fingerprint(self.plan()), digest=digest(content))
        if manifest == before and known:
            return manifest
        write_atomic(self._digests, content)
        write_atomic(self.folder / "manifest.json", pretty(asdict(manifest)))
        return manifest

    def manifest(self) -> Manifest | None:
        """Give the seal, or None for a store that is still growing."""
        path = self.folder / "manifest.json"
        try:
            return Manifest(**_read(path))
        except FileNotFoundError:
            return None
        except TypeError as error:
            raise DamagedError(f"{path} is no manifest; delete it and run the integrate step again") from error

    def part(self, manifest: Manifest, *, rows: int, chunks: int) -> Manifest:
        """Give the manifest that a seal over fewer rows of the same store has.

        Raises:
            IncompleteError: a chunk is no longer committed.
        """
        if manifest.rows == rows:
            return manifest
        content = self._digests_of(chunks, known=self._sealed_digests(manifest))
        return replace(manifest, rows=rows, chunks=chunks, digest=digest(content))

    def sweep(self) -> int:
        """Delete temporary files of writers that died, and tell how many; call when no writer is at work."""
        return sweep(self.folder)

    def _earlier_manifest(self) -> Manifest | None:
        try:
            return self.manifest()
        except DamagedError as error:
            logger.warning("%s; the new seal replaces it", error)
            return None

    @property
    def _digests(self) -> Location:
        """The digests that the last seal gathered, so that the next reads new records alone; not needed otherwise."""
        return self.folder / "digests.json"

    def _digests_of(self, chunks: int, *, known: Mapping[str, Mapping[str, str]]) -> bytes:
        """Give what a manifest's digest is of: the digests of the first chunks, from their records where not known."""
        new = self.read_many(chunk for chunk in range(chunks) if not known.get(str(chunk)))
        return canonical({str(chunk): known.get(str(chunk)) or dict(next(new).files) for chunk in range(chunks)})

    def _sealed_digests(self, manifest: Manifest | None) -> dict[str, dict[str, str]]:
        """Give what the last seal gathered; nothing, unless it is what that seal's manifest vouches for."""
        try:
            content = self._digests.read_bytes()
            return json.loads(content) if manifest is not None and digest(content) == manifest.digest else {}
        except FileNotFoundError:
            return {}

    def _path(self, chunk: int) -> Location:
        return self._commits / f"{chunk:08d}.json"


def _names(folder: Location) -> list[str]:
    if isinstance(folder, RemotePath):
        return [path.name for path in folder.iterdir()]
    return os.listdir(folder)  # a quarter of a glob's time, which counts at 100,000 records


def _content(path: Location | str) -> bytes:
    if isinstance(path, RemotePath):
        return path.read_bytes()
    with open(path, "rb", buffering=0) as file:  # a third of read_bytes' time, which counts as well
        return file.readall()


def _read(path: Location | str) -> dict[str, Any]:
    try:
        content = json.loads(_content(path))
    except ValueError as error:
        raise DamagedError(f"{path} is not JSON; run charflow verify --repair") from error
    if not isinstance(content, dict):
        raise DamagedError(f"{path} is not a JSON object; run charflow verify --repair")
    version = content.get("version", SCHEMA_VERSION)  # the plan has one; records and manifest follow the plan's
    if not isinstance(version, int):
        raise DamagedError(f"{path} has format {version!r}, which is no number; restore it, or delete the run")
    require_known_version(path, version)
    return content


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)
