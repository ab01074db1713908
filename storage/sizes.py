"""How many bytes lie in a place."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from storage.paths import Location
from storage.remote import RemotePath


def stored_bytes(*places: Location) -> int:
    """Give the bytes of files, or of all files below folders; of what is not there, or goes meanwhile, none.

    A link is counted as itself, not as what it leads to. On an object store it takes a listing.
    """
    return sum(sum(place.sizes()) if isinstance(place, RemotePath) else sum(_sizes(place)) for place in places)


def _sizes(place: Path) -> Iterator[int]:
    with suppress(FileNotFoundError):
        if place.is_symlink() or not place.is_dir():
            yield place.lstat().st_size
            return
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _sizes(Path(entry.path))
                else:
                    with suppress(FileNotFoundError):
                        yield entry.stat(follow_symlinks=False).st_size
