"""Digests of bytes and files: what a record promises and ``verify`` recomputes."""

import hashlib

from storage.paths import Location
from storage.remote import RemotePath

DIGEST_BYTES = 16


def digest(*parts: bytes | memoryview) -> str:
    """Give the 128-bit BLAKE2b digest of the parts joined, as 32 hexadecimal digits."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def digest_file(path: Location) -> str:
    """Give the :func:`digest` of a file's bytes, read in bounded memory."""
    if isinstance(path, RemotePath):
        state = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for piece in path.pieces():
            state.update(piece)
        return state.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
