"""A model's folder: ``model.safetensors`` beside ``spec.json`` (a kernel's: ``kernel.json``), which names their digest.

The specification is published last, and an older one goes first: whenever the writer dies, either a whole model lies
here or none, and the step that publishes repeats it on resume.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.atomic import sync_folder, write_atomic
from storage.checksum import digest
from storage.errors import DamagedError, IncompleteError
from storage.fingerprint import canonical
from storage.paths import Location
from storage.records import pretty, require_known_version
from storage.specs import SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """What a model's folder holds."""

    spec: Mapping[str, Any]  # how to build it
    weights: bytes  # safetensors; empty for a model without weights
    digest: str  # of specification and weights together


_KERNEL, _OTHER = "kernel.json", "spec.json"  # names of the specification


def publish_model(folder: Location, *, spec: Mapping[str, Any], weights: bytes = b"") -> str:
    """Write a model, replacing an older one, and give its digest; ``spec`` may not use the keys version and weights."""
    content = {**spec, "version": SCHEMA_VERSION, "weights": digest(weights)}
    name, former = (_KERNEL, _OTHER) if spec.get("kind") == "kernel" else (_OTHER, _KERNEL)
    _retract(folder / former)
    if weights:
        _retract(folder / name)
        write_atomic(folder / "model.safetensors", weights)
    write_atomic(folder / name, pretty(content))
    return digest(canonical(content))


def has_model(folder: Location) -> bool:
    """Tell whether a finished model lies in a folder."""
    return _specification(folder).is_file()


def _specification(folder: Location) -> Location:
    return folder / (_KERNEL if (folder / _KERNEL).is_file() else _OTHER)


def _retract(spec: Location) -> None:
    if spec.is_file():
        spec.unlink(missing_ok=True)
        sync_folder(spec.parent)


def read_model(folder: Location) -> StoredModel:
    """Read a model and check its weights.

    Raises:
        IncompleteError: there is no finished model.
        DamagedError: the weights are not those that the specification names.
        VersionError: a newer charflow wrote it.
    """
    path = _specification(folder)
    if not path.is_file():
        raise IncompleteError(f"{folder} holds no finished model; run the step that makes it")
    try:
        content = json.loads(path.read_bytes())
        version, promised = int(content["version"]), str(content["weights"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is no specification; delete {folder} and run again") from error
    require_known_version(path, version)
    file = folder / "model.safetensors"
    weights = file.read_bytes() if promised != digest(b"") and file.is_file() else b""
    if digest(weights) != promised:
        raise DamagedError(f"{file} is not what {path.name} promises; run again, or delete {folder} first")
    return StoredModel(spec=content, weights=weights, digest=digest(canonical(content)))
