"""Files of JSON that people may read: how they are written, and that none of a newer format is guessed at."""

import json
from collections.abc import Mapping
from typing import Any

from storage.errors import VersionError
from storage.paths import Location
from storage.specs import SCHEMA_VERSION


def pretty(content: Mapping[str, Any]) -> bytes:
    """Give the JSON text of a file, a line a key, no NaN."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def require_known_version(path: Location | str, version: int) -> None:
    """Raise :class:`VersionError` where a newer charflow wrote ``path``."""
    if version > SCHEMA_VERSION:
        raise VersionError(f"{path} has format {version}, this charflow reads up to {SCHEMA_VERSION}; upgrade")
