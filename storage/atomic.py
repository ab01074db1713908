"""Files that appear whole or not at all, and stay after a power cut.

Write to a temporary name in the same folder, fsync, then publish: by rename where a newer version may replace an older
one, by hard link where the first writer wins (``link`` fails if the name exists, which ``rename`` does not). On an
object store a finished put is all of that: there is nothing temporary, and nothing to sync.
"""

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from storage.paths import Location
from storage.remote import RemotePath

TEMPORARY_SUFFIX = ".partial"
_TEMPORARY_NAME = re.compile(rf"\.(.+?)(?:\.[0-9a-f]{{12}})?{re.escape(TEMPORARY_SUFFIX)}")
_PIECE_BYTES = 2**20


def write_atomic(path: Location, content: bytes | memoryview, *, top: Location | None = None) -> None:
    """Publish ``content`` at ``path``, replacing what was there, durably.

    With ``top``, a folder above, the entries of every folder from ``path``'s own up to it are durable, too: those that
    were made now, and those that a writer made who died before it synced them.
    """
    if isinstance(path, RemotePath):
        path.write(content)
        return
    folders = path.parents[: len(path.relative_to(top).parts)] if isinstance(top, Path) else path.parents[:1]
    if len(folders) > 1:
        path.parent.mkdir(parents=True, exist_ok=True)  # synced below
    with atomic_file(path) as file:
        file.write(content)
    for folder in folders[1:]:
        sync_folder(folder)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write that is published at ``path`` when the block ends, durably; an error leaves nothing."""
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            yield file
            _sync_written(file)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill that takes the place of ``path`` when the block ends, durably; an error leaves nothing.

    What was there is moved aside, then deleted: whoever dies between has the one or the other, under another name at
    worst. A link is followed.
    """
    path = path.resolve()
    temporary, former = _temporary(path), _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        sync_tree(temporary)
        if path.exists():
            os.replace(path, former)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if former.exists():
            os.replace(former, path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(former, ignore_errors=True)


def replace_lightly(path: Location, content: bytes) -> None:
    """Publish ``content`` at ``path`` whole but not durably, for advice; the folder exists, and one process writes."""
    if isinstance(path, RemotePath):
        path.write(content)
        return
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def create_exclusive(path: Location, content: bytes) -> bool:
    """Publish ``content`` at ``path`` unless something is there; tell whether it was published.

    What is there is durable either way: a winner may have died before it synced the folder. On an object store the one
    who hears that something was there may be its author (:meth:`RemotePath.create`), so callers compare.
    """
    if isinstance(path, RemotePath):
        return path.create(content)
    try:
        return _create(path, content)
    except FileNotFoundError:  # a folder or leftover was cleared away that this writer was about to use
        return _create(path, content)


def _create(path: Path, content: bytes) -> bool:
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            _sync_written(file)
        os.link(temporary, path)
        is_first = True
    except FileExistsError:
        is_first = False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return is_first


def reads_back(path: Location, content: bytes | memoryview) -> bool:
    """Tell whether a file holds these bytes; the system may then forget them, whose memory others need more.

    Where pages come fresh from a hypervisor, to keep those of all files written is dearer than to write them.
    """
    if isinstance(path, RemotePath):
        return _is_joined(path.pieces(), content)
    with path.open("rb", buffering=0) as file:
        is_same = _is_joined(iter(lambda: file.read(_PIECE_BYTES), b""), content)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return is_same


def _is_joined(pieces: Iterable[bytes], content: bytes | memoryview) -> bool:
    """Tell whether pieces, one after another, are the content."""
    view, start = memoryview(content), 0
    for piece in pieces:
        if bytes(view[start : start + len(piece)]) != piece:  # of bytes, memory is compared at once
            return False
        start += len(piece)
    return start == len(view)


def set_aside(path: Path) -> Path:
    """Give a file or folder a temporary name beside it, durably, and give that: it is nobody's any more."""
    temporary = _temporary(path)
    os.rename(path, temporary)
    sync_folder(path.parent)
    return temporary


def name_behind(temporary: str) -> str:
    """Give the name for which a temporary one stands; empty where it is none."""
    found = _TEMPORARY_NAME.fullmatch(temporary)
    return found[1] if found else ""


def sweep(folder: Location) -> int:
    """Delete temporary files of writers that died, and tell how many; call when no writer is at work."""
    if isinstance(folder, RemotePath):
        return 0
    leftovers = list(folder.rglob(f".*{TEMPORARY_SUFFIX}"))
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Location) -> None:
    """Make a folder's entries durable."""
    if not isinstance(path, RemotePath):
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_tree(path: Path) -> None:
    """Make every file and folder below a folder durable."""
    for folder, _, files in os.walk(path):
        for name in files:
            sync_file(Path(folder, name))
        sync_folder(Path(folder))


def _temporary(path: Path) -> Path:
    """Give a fresh name beside ``path``, in a folder that is there."""
    _make_folder(path.parent)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")


def _sync_written(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _make_folder(path: Path) -> None:
    """Make a folder and those above it; each new entry is durable, or a record could outlive what it stands for."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
