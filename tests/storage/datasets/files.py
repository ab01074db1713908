"""Small datasets in every format, written by the tests."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from storage.data import Dataset, Labels, Values

Pixels = npt.NDArray[np.uint8]


def draw_pixels(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def to_float(pixels: Pixels) -> npt.NDArray[np.float64]:
    return pixels / 127.5 - 1


def encode(pixels: Pixels, *, form: str = "png") -> bytes:
    """Encode ``[height, width]`` or ``[height, width, 3]``."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def idx_bytes(values: Pixels, *, magic: int | None = None, shape: tuple[int, ...] | None = None) -> bytes:
    """Give a file's content; magic number and shape may lie."""
    shape = values.shape if shape is None else shape
    magic = 0x800 + len(shape) if magic is None else magic
    return struct.pack(f">{1 + len(shape)}I", magic, *shape) + values.tobytes()


def write_idx(path: Path, values: Pixels) -> Path:
    """Write a file, compressed where its name ends so."""
    content = idx_bytes(values)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def whole(data: Dataset) -> tuple[Values, Labels | None]:
    return data.read(0, data.rows)


def check_ranges(data: Dataset, ranges: list[tuple[int, int]]) -> None:
    """Read ranges one after another and compare each with that part of the whole."""
    x, label = whole(data)
    for start, stop in ranges:
        part, classes = data.read(start, stop)
        assert part.dtype == np.float32
        assert part.tobytes() == x[start:stop].tobytes()
        assert part.shape == (stop - start, *data.dim)
        assert (classes is not None) == data.has_labels == (label is not None)
        if classes is not None and label is not None:
            assert classes.dtype == np.int64
            assert classes.tolist() == label[start:stop].tolist()
