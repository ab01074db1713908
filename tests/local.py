"""Where the type of a location says that it may be on an object store, and a test knows that it is on this disk."""

from pathlib import Path

from storage.paths import Location


def on_disk(location: Location) -> Path:
    assert isinstance(location, Path)
    return location
