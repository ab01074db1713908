"""Digests of bytes and files: what a record promises and ``verify`` recomputes."""

import hashlib
from pathlib import Path

DIGEST_BYTES = 16


def digest(*parts: bytes | memoryview) -> str:
    """Give the 128-bit BLAKE2b digest of the parts joined, as 32 hexadecimal digits."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def digest_file(path: Path) -> str:
    """Give the :func:`digest` of a file's bytes, read in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
