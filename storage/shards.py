"""The file of one shard: an uncompressed Zarr chunk, raw little-endian values and then their CRC32C.

Written block by block, so that no process ever holds a whole shard, and read as a map of the file, whose pages all
processes of a node share.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from storage.errors import DamagedError

CRC_BYTES = 4
_PIECE_BYTES = 2**20
_REMEMBERED_FILES = 2**16

Array = npt.NDArray[Any]


@contextmanager
def write_shard(path: Path, *, value_bytes: int) -> Iterator[Callable[[Array], None]]:
    """Open a shard's file for writing and give the function that appends values to it, any number at a time.

    At the end of the block zeros fill the file up to ``value_bytes``, since Zarr's chunks are all of one size, and the
    checksum follows. Nothing is made durable here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    crc = written = 0
    with path.open("wb") as file:

        def append(values: Array) -> None:
            nonlocal crc, written
            content = _little_endian(values).tobytes()
            crc = google_crc32c.extend(crc, content)
            written += file.write(content)

        yield append
        assert written <= value_bytes, f"{written} bytes do not fit into a shard of {value_bytes}"
        while written < value_bytes:
            append(np.zeros(min(_PIECE_BYTES, value_bytes - written), np.uint8))
        file.write(crc.to_bytes(CRC_BYTES, "little"))


def map_shard(path: Path, *, shape: tuple[int, ...], dtype: type[np.generic]) -> Array:
    """Give the values of a shard's file as a map of it, which never changes the file.

    The checksum is verified at the first map of a file in this process, and again once the file has changed.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: its size or its checksum is wrong.
    """
    status = path.stat()
    kind = np.dtype(dtype).newbyteorder("<")
    size = kind.itemsize * int(np.prod(shape, dtype=np.int64)) + CRC_BYTES
    if status.st_size != size:
        raise DamagedError(f"{path} must have {size} bytes, got {status.st_size}; ingest again")
    _require_sound(path, size, status.st_mtime_ns, status.st_ino)
    return np.memmap(path, kind, mode="c", shape=shape).view(np.ndarray)  # "c": torch warns of what is read-only


# A memory of what this process has verified, not of values; an error is never remembered. Reading the file costs as
# much as its first use does, and leaves it in the page cache for that.
@lru_cache(maxsize=_REMEMBERED_FILES)
def _require_sound(path: Path, size: int, mtime_ns: int, inode: int) -> None:
    crc, left = 0, size - CRC_BYTES
    with path.open("rb") as file:
        while left > 0:
            piece = file.read(min(_PIECE_BYTES, left))
            crc = google_crc32c.extend(crc, piece)
            left -= len(piece) or left  # an empty piece: cut since; the checksum will not fit
        if file.read() != crc.to_bytes(CRC_BYTES, "little"):
            raise DamagedError(f"{path} fails its checksum; ingest again")


def _little_endian(values: Array) -> Array:
    return values.astype(values.dtype.newbyteorder("<"), copy=False)
