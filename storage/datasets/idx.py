"""MNIST's own format: a big-endian header, then unsigned bytes; gzip or not."""

import gzip
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np

from storage.data import Labels, Values
from storage.datasets.forward import ForwardStream
from storage.datasets.pixels import to_unit
from storage.errors import InputError
from storage.sources import idx_files

IMAGES_MAGIC, LABELS_MAGIC = 0x803, 0x801  # unsigned bytes in three dimensions, and in one
_UNREADABLE = (EOFError, OSError, zlib.error)


class Idx:
    """Grey images ``[1, height, width]`` in [-1, 1], read forward; the labels, a byte a row, are held.

    Raises:
        InputError: a file is missing or has another magic number, or its length or the number of labels does not fit.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, path: Path, *, split: str) -> None:
        self._file, labels = idx_files(path, split=split)
        self._stream = ForwardStream(partial(_open, self._file))
        self.rows, height, width = _header(self._file, self._stream, magic=IMAGES_MAGIC, what="images")
        if 0 in (self.rows, height, width):
            raise InputError(f"{self._file} is empty: {self.rows} images of {width} x {height} pixels")
        self.dim = (1, height, width)
        self._labels = None if labels is None else _read_labels(labels)
        if self._labels is not None and len(self._labels) != self.rows:
            raise InputError(f"{labels} has {len(self._labels)} labels for the {self.rows} images of {self._file}")

    @property
    def has_labels(self) -> bool:
        """Whether a file of labels lies beside the images."""
        return self._labels is not None

    def read(self, start: int, stop: int) -> tuple[Values, Labels | None]:
        """Give rows ``start <= row < stop`` and their labels."""
        content = self._bytes(start, stop)
        if stop == self.rows:
            _require_end(self._file, self._stream, self.rows, "images")
        pixels = np.frombuffer(content, np.uint8).reshape(stop - start, *self.dim)
        return to_unit(pixels), None if self._labels is None else self._labels[start:stop].astype(np.int64)

    def where(self, row: int) -> str:
        """Give the file and the row in it."""
        return f"{self._file}: row {row}"

    def _bytes(self, start: int, stop: int) -> bytes:
        """Give the pixels of rows; where they end too early, the message names the row."""
        size, offset = self.dim[1] * self.dim[2], 4 * 4
        try:
            return self._stream.read(offset + start * size, offset + stop * size)
        except _UNREADABLE as error:
            if stop - start > 1:
                for row in range(start, stop):
                    self._bytes(row, row + 1)
            raise InputError(f"{self.where(start)} is truncated or damaged: {error}") from error


def _open(file: Path) -> IO[bytes]:
    with file.open("rb") as opened:
        is_gzip = opened.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(file)) if is_gzip else file.open("rb")


def _header(file: Path, stream: ForwardStream, *, magic: int, what: str) -> tuple[int, ...]:
    """Give the lengths of the dimensions, the number of rows first."""
    (found,) = struct.unpack(">I", _take(file, stream, 0, 4))
    if found != magic:
        raise InputError(f"{file} must start with magic number {magic} (IDX, unsigned bytes, {what}), got {found}")
    num_dims = magic & 0xFF
    return struct.unpack(f">{num_dims}I", _take(file, stream, 4, 4 + 4 * num_dims))


def _read_labels(file: Path) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    stream = ForwardStream(partial(_open, file))
    (rows,) = _header(file, stream, magic=LABELS_MAGIC, what="labels")
    labels = np.frombuffer(_take(file, stream, 8, 8 + rows), np.uint8)
    _require_end(file, stream, rows, "labels")
    return labels


def _take(file: Path, stream: ForwardStream, start: int, stop: int) -> bytes:
    try:
        return stream.read(start, stop)
    except _UNREADABLE as error:
        raise InputError(f"{file} is truncated or damaged before byte {stop} of its content: {error}") from error


def _require_end(file: Path, stream: ForwardStream, rows: int, what: str) -> None:
    try:
        is_end = stream.is_at_end()
    except _UNREADABLE as error:
        raise InputError(f"{file} is truncated or damaged at its end: {error}") from error
    if not is_end:
        raise InputError(f"{file} is longer than the {rows} {what} that its header tells")
