"""What no run and no study under a root refers to, and how it is cleared away; DESIGN.md tells why that is safe.

A stage is referred to where some run's record names it. Whoever wants to refer to it finds it in the record of the run
that holds it, which only those write who hold that run's lock. So what no record names, read under that lock, stays
unnamed, and may go.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from storage.atomic import name_behind, set_aside
from storage.catalog import Catalog, RunRecord, is_alive, is_name
from storage.errors import InputError, StorageError
from storage.locks import locked
from storage.models import read_model
from storage.paths import Location, RunPaths, ledger_path
from storage.references import References, read_references
from storage.remote import RemotePath
from storage.sizes import stored_bytes

_KEY = re.compile(r"[0-9a-f]{32}")
_TRAINED = ("fit_velocity", "train_generator")  # steps that leave checkpoints
_PATIENCE_SECONDS = 0.5  # for a command that holds a run for an instant


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the configuration of a run asks for."""

    keys: Mapping[str, str]  # of each step
    served: frozenset[str]  # steps that the record serves as they are asked for


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Something that nobody refers to."""

    run: str  # in whose folder it lies
    path: Path
    bytes: int
    why: str
    parts: tuple[Path, ...]  # what goes of it, in this order: a record before what it vouches for


@dataclass(frozen=True, kw_only=True)
class Clearing:
    """What was found, or was cleared away."""

    garbage: tuple[Garbage, ...]
    spared: Mapping[str, str]  # run -> why nothing of it was looked at or touched

    @property
    def bytes(self) -> int:
        """Bytes of it all."""
        return sum(item.bytes for item in self.garbage)


AskWishes = Callable[[RunRecord], Wishes | None]  # None: nobody knows, so it may be anything


class _AtWorkError(Exception):
    """Somebody may be at work on a run."""


def find_garbage(catalog: Catalog, wishes: AskWishes) -> Clearing:
    """Look for what nobody refers to, and change nothing.

    Raises:
        InputError: the root is on an object store.
        StorageError: a record cannot be read, so nobody knows what it refers to.
    """
    return _of_all(catalog, wishes, each=_listed)


def clear_garbage(catalog: Catalog, wishes: AskWishes) -> Clearing:
    """Delete what nobody refers to; of each run under its lock, and after all references were read again.

    Raises:
        InputError: the root is on an object store.
        StorageError: a record cannot be read, so nobody knows what it refers to.
        OSError: something cannot be deleted; what was deleted before is gone, and the next call goes on.
    """
    return _of_all(catalog, wishes, each=_cleared)


def _of_all(
    catalog: Catalog, wishes: AskWishes, *, each: Callable[[Catalog, str, AskWishes, list[Garbage]], list[Garbage]]
) -> Clearing:
    root = catalog.root
    if isinstance(root, RemotePath):
        raise InputError(f"root {root} must be a folder for gc: an object store has no locks that tell who is at work")
    garbage: list[Garbage] = []
    spared: dict[str, str] = {}
    references = read_references(catalog)
    for name in sorted(path.name for path in root.iterdir()) if root.is_dir() else ():
        found: list[Garbage] = []
        with suppress(FileNotFoundError):  # of another's clearing at the same time
            found = list(_of_folder(catalog.paths(name), references, wishes)) if is_name(name) else []
        try:
            garbage += each(catalog, name, wishes, found) if found else []
        except _AtWorkError as error:
            spared[name] = str(error)
    return Clearing(garbage=tuple(garbage), spared=spared)


def _listed(catalog: Catalog, name: str, _: AskWishes, found: list[Garbage]) -> list[Garbage]:
    """Give what was found of a run, unless somebody is at work on it."""
    with ExitStack() as stack:
        if _local(catalog.paths(name).lock).exists():  # else nobody holds it, and looking makes no file
            stack.enter_context(_alone(catalog, name))
        _require_idle(catalog, name)
        return found


def _cleared(catalog: Catalog, name: str, wishes: AskWishes, _: list[Garbage]) -> list[Garbage]:
    """Take away what nobody refers to by now; large things under another name first, so the lock is short."""
    with _alone(catalog, name):
        references = read_references(catalog)
        garbage = list(_of_folder(catalog.paths(name), references, wishes))
        aside = [_taken_away(part) for item in garbage for part in item.parts]
        if garbage and name not in references.records:
            _delete(aside)
            _remove_folder(catalog.paths(name))
    _delete(aside)
    return garbage


def _alone(catalog: Catalog, name: str) -> ExitStack:
    """Hold a run for its clearing.

    Raises:
        _AtWorkError: a process works on it, or nobody can tell.
    """
    with ExitStack() as stack:
        try:
            is_held = stack.enter_context(locked(_local(catalog.paths(name).lock), patience=_PATIENCE_SECONDS))
        except BlockingIOError:
            raise _AtWorkError("a process is at work on it") from None
        except FileNotFoundError:
            raise _AtWorkError("another process cleared it away") from None
        if not is_held:
            raise _AtWorkError("the file system has no locks to tell whether a process is at work on it")
        _require_idle(catalog, name)
        return stack.pop_all()


def _require_idle(catalog: Catalog, name: str) -> None:
    """Raise :class:`_AtWorkError` where a record says that a process works, on another host perhaps."""
    if catalog.paths(name).record.is_file() and is_alive(record := catalog.get(name)):
        raise _AtWorkError(f"process {record.pid} on {record.host} is at work on it")


def _of_folder(paths: RunPaths, references: References, wishes: AskWishes) -> Iterator[Garbage]:
    folder, record = _local(paths.folder), references.records.get(paths.run)
    if record is None:
        if _is_lost_run(paths, references):
            parts = [place for place in _all_places(paths) if place.exists()]
            parts += [path for path in folder.iterdir() if name_behind(path.name)]
            yield _item(paths.run, folder, "a run's folder without its record", parts)
        return
    own = {place.name for place in (*_all_places(paths), paths.record, paths.config, paths.progress)}
    yield from _leftovers(paths.run, (path for path in folder.iterdir() if name_behind(path.name) in own))
    wished = wishes(record)
    for step, places in paths.stages.items():
        present = [place for place in map(_local, places) if _is_folder(place)]
        other = _replacement(step, paths, references, wished)
        if other:
            why = f"run {paths.run} takes {step} from run {other}"
            yield from (_item(paths.run, place, why, [place]) for place in present)
            continue
        found = [item for place in present for item in _checkpoints(step, place, paths.run, references, wished)]
        yield from found
        gone = {part for item in found for part in item.parts}
        yield from (item for place in present for item in _leftovers(paths.run, _temporaries(place, but=gone)))


def _replacement(step: str, paths: RunPaths, references: References, wished: Wishes | None) -> str:
    """Give the run that serves a step all that a run asks for, where nobody uses what it has of its own; else nothing.

    What serves less than is asked for does not count: then its own is what it goes on from.
    """
    run = paths.run
    if wished is None or step not in wished.served or references.is_used(step, run):
        return ""
    other = references.other_holder(step, run)
    if not other or references.records[run].steps[step].key != wished.keys[step]:
        return ""
    theirs = RunPaths(paths.root, other).stages[step]
    return other if all(_local(place).exists() for place in theirs) else ""


def _checkpoints(step: str, place: Path, run: str, references: References, wished: Wishes | None) -> Iterator[Garbage]:
    """Give the checkpoints that nobody goes on from: of former trainings, and of finished ones all but the journal."""
    folders = sorted((place / "checkpoints").glob("*")) if step in _TRAINED else []
    for folder in (folder for folder in folders if _KEY.fullmatch(folder.name) and _is_folder(folder)):
        is_used = (step, folder.name, run) in references.stages
        if not is_used and wished is not None and wished.keys[step] != folder.name:
            yield _item(run, folder, "a training that no run refers to or asks for", [folder])
        elif is_used and (parts := _states(folder)) and _has_sound_model(place, key=folder.name):
            yield _item(run, folder, "checkpoints of a finished training, all but its journal", parts)


def _states(folder: Path) -> list[Path]:
    """Give what a training would go on from; a marker before its payload, or that would look damaged."""
    marked = [*sorted(folder.glob("step-*.json")), *sorted(folder.glob("step-*.pt"))]
    return [*marked, *(path for path in [folder / "admissions"] if path.exists())]


def _has_sound_model(place: Path, *, key: str) -> bool:
    """Tell whether the model of a training lies in a place, whole."""
    try:
        return bool(read_model(place).spec.get("key") == key)
    except (StorageError, OSError):
        return False


def _is_lost_run(paths: RunPaths, references: References) -> bool:
    """Tell whether a folder is a run's that lost its record, holds nothing else, and nobody names it.

    What hardly anything else has is a configuration beside a run's lock, or beside a ledger. The lock by itself is what
    a clearing leaves that died at the end.
    """
    folder = _local(paths.folder)
    if paths.run in references.runs or not _is_folder(folder):
        return False
    known = {place.name for place in (*_all_places(paths), paths.config, paths.progress, paths.lock)}
    entries = {path.name: path for path in folder.iterdir()}
    marks = {paths.lock.name, ledger_path(paths.trajectories).name}
    return (
        (entries.keys() == {paths.lock.name} or (paths.config.name in entries and not marks.isdisjoint(entries)))
        and all(name in known or name_behind(name) in known for name in entries)
        and not any(path.is_symlink() for path in entries.values())
    )


def _remove_folder(paths: RunPaths) -> None:
    """Remove what is left of a lost run; a run that was made there meanwhile stays, and writes these files anew."""
    for file in (paths.progress, paths.config, paths.lock):  # the lock last, for whoever waits for it
        if not paths.record.is_file():
            file.unlink(missing_ok=True)
    with suppress(OSError):
        _local(paths.folder).rmdir()


def _leftovers(run: str, paths: Iterable[Path]) -> Iterator[Garbage]:
    return (_item(run, path, "left by a writer that died", [path]) for path in sorted(paths))


def _temporaries(place: Path, *, but: set[Path]) -> Iterator[Path]:
    """Give what lies below a folder under a temporary name, links not followed; of folders those that gc set aside."""
    for folder, folders, files in os.walk(place):
        here = Path(folder)
        aside = [name for name in folders if (behind := name_behind(name)) == "admissions" or _KEY.fullmatch(behind)]
        yield from (path for name in (*aside, *filter(name_behind, files)) if (path := here / name) not in but)
        folders[:] = [name for name in folders if not name_behind(name) and here / name not in but]


def _item(run: str, path: Path, why: str, parts: Iterable[Path]) -> Garbage:
    parts = tuple(parts)
    return Garbage(run=run, path=path, bytes=stored_bytes(*parts), why=why, parts=parts)


def _taken_away(path: Path) -> Path:
    """Delete a file; set a folder aside, whose deletion takes longer, and give where it is."""
    if not _is_folder(path):
        path.unlink(missing_ok=True)
        return path
    return path if name_behind(path.name) else set_aside(path)


def _delete(paths: Iterable[Path]) -> None:
    """Delete folders that were set aside; another process may do so as well, at the same time."""
    for path in paths:
        while path.exists():
            with suppress(FileNotFoundError):
                shutil.rmtree(path)


def _all_places(paths: RunPaths) -> list[Path]:
    return [_local(place) for places in paths.stages.values() for place in places]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _local(place: Location) -> Path:
    assert isinstance(place, Path)
    return place
