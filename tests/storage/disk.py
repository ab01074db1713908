"""A disk whose calls are recorded, and which dies at the k-th of them."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import pytest
from zarr.core.sync import sync

CALLS = ("mkdir", "fsync", "link", "replace", "rename", "unlink")


class Death(BaseException):
    """The process is gone; no handler of errors may run on."""


class Disk:
    """The calls that change or sync a file system, as storage makes them.

    From the call at which it dies on every call dies, so that no clean-up works after the end, as in a killed process.
    A file that was to be synced then is torn: half of its bytes are lost.
    """

    def __init__(self, *, dies_at: int) -> None:
        self.trace: list[tuple[str, Any]] = []  # name and first argument; of a sync, the inode
        self.is_dead = False
        self._dies_at = dies_at

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.is_dead or len(self.trace) + 1 >= self._dies_at:
                if name == "fsync" and not self.is_dead:
                    _tear(args[0])
                self.is_dead = True
                raise Death
            self.trace.append((name, os.fstat(args[0]).st_ino if name == "fsync" else args[0]))
            return call(*args, **kwargs)

        return wrapped


@contextmanager
def disk(*, dies_at: int = 10**9) -> Iterator[Disk]:
    """Put a recording, mortal disk under the code inside; its death ends the block quietly."""
    mortal = Disk(dies_at=dies_at)
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, mortal.wrap(name, getattr(os, name)))
        try:
            yield mortal
        except Death:
            assert mortal.is_dead


@contextmanager
def interrupted(k: int, act: Callable[[], object]) -> Iterator[list[str]]:
    """Run ``act`` just before the k-th call of the code inside, and give the names of the calls made, the act's too."""
    calls: list[str] = []

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == k:
                act()
            return call(*args, **kwargs)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrap(name, getattr(os, name)))
        yield calls


def deaths(act: Callable[[int], Callable[[], object]]) -> int:
    """Let an act die at its first call, its second and so on until it lives through; give the number of deaths.

    Args:
        act: prepares the k-th try and gives what is tried; the test looks at what is left between two calls of it.
    """
    for k in count(1):
        attempt = act(k)
        with disk(dies_at=k) as mortal:
            try:
                attempt()
            finally:
                sync(_quiet())
        if not mortal.is_dead:
            return k - 1
    raise AssertionError


async def _quiet() -> None:
    """Wait for what Zarr still writes of a call that died: in a killed process nothing would go on."""
    others = asyncio.all_tasks() - {task for task in (asyncio.current_task(),) if task}
    await asyncio.gather(*others, return_exceptions=True)


def _tear(descriptor: int) -> None:
    with suppress(OSError):  # a folder, or a file opened for reading
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
