"""Copies on this node of a dataset on an object store: shards are read as maps of files, and each is fetched once.

They lie under ``$XDG_CACHE_HOME/charflow``, or ``~/.cache/charflow``, in a folder named after the store's address and
its metadata, digest included, so that another dataset in the same place has other copies. They may be deleted when
nobody works; charflow itself deletes none but damaged ones.
"""

import fcntl
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.atomic import TEMPORARY_SUFFIX
from storage.checksum import digest
from storage.fingerprint import fingerprint
from storage.paths import Location
from storage.remote import RemotePath

METADATA = ("zarr.json", "x/zarr.json", "label/zarr.json")  # of a dataset; the last where it has labels


class NodeFiles:
    """The files of a dataset on this node: its own on a disk, copies of an object store's.

    Raises:
        FileNotFoundError: there is no dataset.
    """

    def __init__(self, store: Location) -> None:
        self._store = store
        self.folder = _copied_metadata(store) if isinstance(store, RemotePath) else store  # holds at least the metadata
        if not (self.folder / METADATA[0]).exists():
            raise FileNotFoundError(self.folder)

    def require(self, name: str) -> None:
        """See to it that a file is in the folder.

        Raises:
            FileNotFoundError: the store has none of that name.
            OSError: the cache's disk is full, or may not be written.
        """
        if isinstance(self._store, RemotePath):
            _fetch(self._store / name, self.folder / name)
        elif not (self.folder / name).is_file():
            raise FileNotFoundError(self.folder / name)

    def renew(self, names: Iterable[str]) -> bool:
        """Copy files anew; tell whether they are copies."""
        if not isinstance(self._store, RemotePath):
            return False
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
            self.require(name)
        return True


def _copied_metadata(store: RemotePath) -> Path:
    found = {METADATA[0]: (store / METADATA[0]).read_bytes()}
    for name in METADATA[1:]:
        with suppress(FileNotFoundError):
            found[name] = (store / name).read_bytes()
    folder = _folder(store, found)
    for name, content in found.items():
        if not (folder / name).is_file():
            _write(folder / name, (content,))
    return folder


def _fetch(source: RemotePath, copy: Path) -> None:
    """Copy an object unless it was copied before, in bounded memory; processes of a node wait for one another."""
    if copy.is_file():
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    with copy.with_name(f".{copy.name}.lock").open("w") as lock:
        with suppress(OSError):  # a file system without locks: two may fetch it
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.is_file():
            _write(copy, source.pieces())


@contextmanager
def scratch() -> Iterator[Path]:
    """Give an empty folder in the cache that goes at the end of the block."""
    _root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_root(), prefix="new-") as folder:
        yield Path(folder)


def publish(folder: Path, store: RemotePath) -> None:
    """Put a finished dataset of this disk on an object store, and keep it as its copy here.

    What makes it whole goes first and comes last; what lies there and does not belong to it is deleted.
    """
    (store / METADATA[0]).unlink()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for stray in set(store.files()) - {store / name for name in names}:
        stray.unlink()
    for name in sorted(names, key=lambda name: name == METADATA[0]):
        (store / name).write(folder / name)
    with suppress(OSError):  # the same lies there already
        folder.rename(_folder(store, {name: (folder / name).read_bytes() for name in METADATA if name in names}))


def _root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "charflow"


def _folder(store: RemotePath, metadata: Mapping[str, bytes]) -> Path:
    files = {name: digest(content) for name, content in metadata.items()}
    return _root() / fingerprint({"address": str(store), "files": files})


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file whole or not at all; it need not be durable, since every reader checks it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            file.writelines(pieces)
        temporary.replace(path)
    except OSError as error:
        if error.errno is None or isinstance(error, FileNotFoundError):
            raise
        raise OSError(
            error.errno,
            f"{path} cannot be written ({error.strerror}): make room there, or set XDG_CACHE_HOME to another folder",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
