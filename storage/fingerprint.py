"""Content addresses of requests: equal requests share a key, and nothing else does."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from storage.checksum import digest


def canonical(value: Mapping[str, Any]) -> bytes:
    """Give the one JSON text of a mapping: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def fingerprint(value: Mapping[str, Any]) -> str:
    """Give the digest of a mapping's :func:`canonical` text; the order of its keys does not matter."""
    return digest(canonical(value))


def stage_key(step: str, *, request: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """Give the key of a stage: the fingerprint of what it was asked for and of the keys of what it read."""
    return fingerprint({"step": step, "request": request, "inputs": list(inputs)})
