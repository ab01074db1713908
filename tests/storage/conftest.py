"""What every test of the storage layer shares."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from storage import remote
from storage.remote import RemotePath

if TYPE_CHECKING:
    from tests.storage.bucket import Proxy

_FOLDERS = count()


@pytest.fixture(autouse=True)
def fast_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: what fsync adds shows after a power cut only; tests of its order record the calls."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def server() -> Iterator["Proxy"]:
    from tests.storage.bucket import serving  # takes a second to import, and only a few files use it

    with serving() as proxy:
        yield proxy


@pytest.fixture
def proxy(server: "Proxy", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Proxy":
    """Give the way to an object store that does no harm yet, used by this process with little patience."""
    from tests.storage.bucket import SOUND, environment, hasten

    server.script = lambda request: SOUND
    server.log.clear()
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hasten(monkeypatch)
    return server


@pytest.fixture
def folder(proxy: "Proxy") -> RemotePath:
    """Give an empty folder of the bucket."""
    from tests.storage.bucket import BUCKET

    return RemotePath(BUCKET, f"folder-{next(_FOLDERS)}/runs")


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    """Give an empty folder of a store in memory: for what needs thousands of requests, and no server's own ways."""
    from obstore.store import MemoryStore

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = MemoryStore()
    monkeypatch.setattr(remote, "_opened", lambda bucket: store)
    return RemotePath("s3://memory", "runs")
