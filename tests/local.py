"""Where the type of a location says that it may be on an object store, and a test knows that it is on this disk."""

from pathlib import Path

from storage.paths import Location


def on_disk(location: Location) -> Path:
    assert isinstance(location, Path)
    return location


def files_of(folder: Path) -> dict[str, bytes]:
    """Give every file below a folder by its name inside it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
