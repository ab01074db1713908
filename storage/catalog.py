"""The catalog: one record a run, and who holds which stage under which key.

A stage is addressed by its key, so a run may use what another run made: its record then names the holder, and every
command follows that name. Nothing is copied or linked.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from storage.atomic import create_exclusive, write_atomic
from storage.errors import DamagedError, InputError, RunBusyError, RunConflictError, UnknownRunError
from storage.locks import locked
from storage.paths import Location, RunPaths, each
from storage.records import pretty, require_known_version
from storage.remote import RemotePath
from storage.specs import SCHEMA_VERSION

STATUSES = ("new", "running", "partial", "finished", "failed", "interrupted")  # partial: done as far as was asked
_PATIENCE_SECONDS = 0.5  # for those who hold a run for an instant: to claim it, to clear away what nobody needs
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=/+-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """A finished step of a run; what steps of before did not record is None or empty, for unknown."""

    key: str
    holder: str  # the run whose folder holds it
    seconds: float  # of the work that made it, wall time
    finished: str  # UTC, ISO 8601
    summary: Mapping[str, Any]  # small facts: rows, digest, losses
    inputs: Mapping[str, str] | None = None  # digests of what it read, by what that is
    host: str = ""  # that led the work
    cores: int | None = None  # that the work had
    bytes: int | None = None  # stored in its places when it was done
    versions: Mapping[str, str] = field(default_factory=dict)  # of charflow and what its result depends on

    @property
    def core_hours(self) -> float | None:
        """What it cost; None where that is not known."""
        return None if self.cores is None else self.seconds * self.cores / 3600


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What the catalog knows of a run."""

    version: int = SCHEMA_VERSION
    name: str
    identity: str  # of its configuration, but for the count of trajectories
    config: str  # what it was made from: a preset or a file's name
    source_digest: str = ""  # of the dataset's files when the run was made; empty for data that no file holds
    status: str = "new"
    created: str
    updated: str
    steps: Mapping[str, StageRecord] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    metrics_detail: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds of orchestration in the last working process
    error: str = ""
    host: str = ""
    pid: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()  # of the user's, sorted; no part of any key


class Catalog:
    """The runs under one root."""

    def __init__(self, root: Location) -> None:
        self.root = root if isinstance(root, RemotePath) else root.absolute()  # workers have other working folders

    def paths(self, run: str) -> RunPaths:
        """Give the places of a run, whether it exists or not."""
        return RunPaths(self.root, run)

    def runs(self) -> list[RunRecord]:
        """Give every run, the newest first."""
        names = [path.parent.name for path in self.root.glob("*/run.json")]
        found = [name for name in names if _NAME.fullmatch(name)]
        records = each(self.get, found, place=self.root)
        return sorted(records, key=lambda record: record.created, reverse=True)

    def get(self, run: str) -> RunRecord:
        """Give one run.

        Raises:
            UnknownRunError: there is none of that name.
            DamagedError: its record cannot be read.
        """
        path = self.paths(run).record
        if not _NAME.fullmatch(run) or not path.is_file():
            known = ", ".join(sorted(p.parent.name for p in self.root.glob("*/run.json"))) or "none yet"
            raise UnknownRunError(f"run {run!r} is unknown under {self.root}; known: {known}")
        return _read(path)

    def claim(self, name: str, *, identity: str, config: str, is_explicit: bool, source_digest: str = "") -> RunRecord:
        """Give the run of this configuration, made anew if there is none.

        Args:
            name: what the run is called; where that is another configuration's run, six digits of the identity follow.
            identity: fingerprint of the configuration.
            config: what it was made from, for people.
            is_explicit: the name was asked for, so another configuration's run of that name is an error.
            source_digest: of the dataset's files, which is part of the identity.

        Raises:
            InputError: the name cannot be a folder's, or the root cannot be written.
            RunConflictError: an explicit name belongs to another configuration.
        """
        require_name(name)
        if is_explicit and self.paths(name).study.is_file():
            raise InputError(f"name {name!r} is a study's; choose another")
        candidates = [name] if is_explicit else [name, f"{name}-{identity[:6]}"]
        for candidate in candidates:
            if self.paths(candidate).study.is_file():
                continue
            record = self._create(candidate, identity=identity, config=config, source_digest=source_digest)
            if record.identity == identity:
                return record
        raise RunConflictError(f"run {name!r} has another configuration")

    @contextmanager
    def held(self, run: str) -> Iterator[None]:
        """Work on a run alone, as long as the block lasts or the process lives.

        The lock is the host's: it keeps two commands from one run, and goes with its process, however that ends. Two
        hosts that work on one run do so twice and harm nothing but the record; so do any two processes where the run
        is on an object store, which has no locks.

        Raises:
            RunBusyError: another process works on it.
        """
        lock = self.paths(run).lock
        if isinstance(lock, RemotePath):
            yield
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(lock, patience=_PATIENCE_SECONDS))  # without locks only a warning is lost
            except BlockingIOError:
                raise self._busy(run) from None
            yield

    def _busy(self, run: str) -> RunBusyError:
        record = self.get(run)
        who = f"process {record.pid} on {record.host}" if record.status == "running" else "another process"
        return RunBusyError(f"run {run!r} is being worked on by {who}; wait for it, or end it, then run this again")

    def write_config(self, run: str, text: str) -> None:
        """Keep the resolved configuration of a run, TOML."""
        write_atomic(self.paths(run).config, text.encode())

    def write_account(self, run: str, text: str) -> None:
        """Keep what went wrong with a run, Markdown; a disk that takes nothing more must not hide it."""
        with suppress(OSError):
            write_atomic(self.paths(run).account, text.encode())

    def forget_account(self, run: str) -> None:
        """Remove what went wrong before."""
        self.paths(run).account.unlink(missing_ok=True)

    def update(self, record: RunRecord, **changes: Any) -> RunRecord:
        """Publish a changed record and give it."""
        changed = replace(record, updated=_now(), **changes)
        write_atomic(self.paths(record.name).record, pretty(asdict(changed)))
        return changed

    def finish_stage(self, record: RunRecord, step: str, stage: StageRecord) -> RunRecord:
        """Record a finished step."""
        return self.update(record, steps={**record.steps, step: stage})

    def tag(self, record: RunRecord, tags: Iterable[str]) -> RunRecord:
        """Add tags to a run; those that it has are no news."""
        all_tags = tuple(sorted({*record.tags, *tags}))
        return record if all_tags == record.tags else self.update(record, tags=all_tags)

    def holds(self, step: str, stage: StageRecord) -> bool:
        """Tell whether the run that a stage names still has it, by its record, under the same key."""
        paths = self.paths(stage.holder)
        if not _NAME.fullmatch(stage.holder) or not paths.record.is_file():
            return False
        found = _read(paths.record).steps.get(step)
        return found is not None and (found.key, found.holder) == (stage.key, stage.holder)

    def holders(self, step: str, key: str) -> Iterator[StageRecord]:
        """Give what the runs hold under a key, each made in the very run that holds it."""
        for record in self.runs():
            stage = record.steps.get(step)
            if stage is not None and stage.key == key and stage.holder == record.name:
                yield stage

    def _create(self, name: str, *, identity: str, config: str, source_digest: str) -> RunRecord:
        paths = self.paths(name)
        if paths.record.is_file():
            return _read(paths.record)
        now = _now()
        record = RunRecord(
            name=name, identity=identity, config=config, source_digest=source_digest, created=now, updated=now
        )
        try:
            is_ours = create_exclusive(paths.record, pretty(asdict(record)))
        except OSError as error:
            raise InputError(
                f"root {str(self.root)!r} must be a folder that can be written: {error.strerror or error}"
            ) from error
        return record if is_ours else _read(paths.record)


def is_name(name: str) -> bool:
    """Tell whether a run or a study can have this name."""
    return _NAME.fullmatch(name) is not None


def require_name(name: str) -> None:
    """Raise :class:`InputError` unless a run or a study can have this name."""
    if not is_name(name):
        raise InputError(f"name must be letters, digits, '.', '_' or '-' and start with one of the first, got {name!r}")


def require_tag(tag: str) -> None:
    """Raise :class:`InputError` unless a run can have this tag."""
    if not _TAG.fullmatch(tag):
        raise InputError(
            "--tag must be at most 100 letters, digits or any of . _ : = / + - and start with one of the first two, "
            f"got {tag!r}"
        )


def is_alive(record: RunRecord) -> bool:
    """Tell whether the process that runs it is still there, as far as this host can know."""
    if record.status != "running" or record.host != os.uname().nodename:
        return record.status == "running"
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def stage_record(*, key: str, holder: str, seconds: float, summary: Mapping[str, Any]) -> StageRecord:
    """Give the record of a step that finished just now."""
    return StageRecord(key=key, holder=holder, seconds=round(seconds, 3), finished=_now(), summary=summary)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _read(path: Location) -> RunRecord:
    try:
        content = json.loads(path.read_bytes())
        require_known_version(path, content["version"])
        steps = {step: StageRecord(**stage) for step, stage in content.pop("steps").items()}
        found = RunRecord(steps=steps, **content | {"tags": tuple(content.get("tags", ()))})
        names = [found.name, *(stage.holder for stage in steps.values())]
        is_safe = all(map(is_name, names))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path} is no run's record; restore it, or delete the run") from error
    if not is_safe:  # places are joined of these names, and written to
        raise DamagedError(f"{path} names what cannot be a run's folder; restore it, or delete the run")
    return found
