"""Samples that leave charflow, in the format of their file's suffix, written as they are drawn.

What is written appears whole or not at all, replaces earlier samples and nothing else, and is held a batch at a time.
"""

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, cast

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from storage.atomic import atomic_file, atomic_folder
from storage.errors import InputError
from storage.trajectories import NO_CHUNK, Floats, Labels

Write = Callable[[Floats, Labels | None], None]

PICTURE = ".png"
SUFFIXES = (".npy", ".npz", PICTURE, ".zarr")  # and none: a folder of images

_MARK: dict[str, Any] = {"charflow": "samples"}  # attributes of a group that later samples may replace
_MARK_FILE = ".charflow-samples"  # in a folder of images that later samples may replace
_CHUNK_BYTES = 16 * 2**20


def check_sample_path(path: Path, *, dim: tuple[int, ...] | None = None) -> None:
    """Raise :class:`InputError` unless samples, of shape ``dim`` if that is known, can be written there."""
    if path.suffix not in (*SUFFIXES, ""):
        known = ", ".join(SUFFIXES)
        raise InputError(f"--out must end in one of {known}, or name a folder for images, got {str(path)!r}")
    require_folder(path)
    if path.suffix not in (".zarr", "") and path.is_dir():
        raise InputError(f"--out {str(path)!r} is a folder; name a file")
    if path.suffix in (".zarr", "") and path.exists() and not _holds_samples(path):
        raise InputError(f"--out {str(path)!r} is there and holds no samples; name another place, or remove it first")
    if path.suffix == "" and dim is not None and not (len(dim) == 3 and dim[0] in (1, 3)):
        raise InputError(f"--out {str(path)!r} is for images, and a sample has shape {dim}; use .npy, .npz or .zarr")


def require_folder(path: Path) -> None:
    """Raise :class:`InputError` unless ``--out``, a file or folder, lies in a folder that can be written."""
    folder = path.resolve().parent
    if not folder.is_dir():
        raise InputError(f"--out {str(path)!r} lies in no folder; make {folder} first")
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"--out {str(path)!r} lies in {folder}, which cannot be written: {error.strerror}") from error


@contextmanager
def sample_file(
    path: Path, *, count: int, dim: tuple[int, ...], classes: tuple[str, ...] | None = None
) -> Iterator[Write]:
    """Give a function that takes batches ``x [rows, *dim]`` float32, in order, and their ``label [rows]``.

    ``.npy`` holds x alone; ``.npz`` and ``.zarr`` arrays x and, where there are labels, ``label [count]``. A path
    without suffix becomes a folder of 8-bit PNG files of values in [-1, 1], others clipped; where there are labels, a
    folder a class, as the dataset kind ``images`` reads it.

    Args:
        path: the file or folder.
        count: number of samples that will come.
        dim: shape of one.
        classes: names by label; None: no labels come.

    Raises:
        InputError: samples cannot be written there.
    """
    check_sample_path(path, dim=dim)
    match path.suffix:
        case ".npy":
            with atomic_file(path) as file:
                _write_header(file, (count, *dim), np.dtype(np.float32))
                yield lambda x, _: _append(file, x)
        case ".npz":
            with _archive(path, count=count, dim=dim, has_labels=classes is not None) as write:
                yield write
        case ".zarr":
            with _group(path, count=count, dim=dim, has_labels=classes is not None) as write:
                yield write
        case _:
            with atomic_folder(path) as folder:
                yield _image_writer(folder, count=count, classes=classes)


@contextmanager
def _archive(path: Path, *, count: int, dim: tuple[int, ...], has_labels: bool) -> Iterator[Write]:
    labels: list[Labels] = []
    with atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            _write_header(member, (count, *dim), np.dtype(np.float32))

            def write(x: Floats, label: Labels | None) -> None:
                _append(member, x)
                if label is not None:
                    labels.append(label)

            yield write
        if has_labels:
            with archive.open("label.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.concatenate(labels))


@contextmanager
def _group(path: Path, *, count: int, dim: tuple[int, ...], has_labels: bool) -> Iterator[Write]:
    rows = min(count, max(1, _CHUNK_BYTES // (4 * math.prod(dim))))
    with atomic_folder(path) as folder:
        group = zarr.create_group(folder, zarr_format=3, attributes=_MARK)
        make: Any = partial(group.create_array, compressors=[Crc32cCodec()])
        arrays = [make("x", shape=(count, *dim), chunks=(rows, *dim), dtype="float32", fill_value=np.nan)]
        if has_labels:
            arrays.append(make("label", shape=(count,), chunks=(rows,), dtype="int64", fill_value=NO_CHUNK))
        held = [np.empty(array.chunks, array.dtype) for array in arrays]
        done = 0

        def write(*batch: Floats | Labels | None) -> None:
            nonlocal done
            taken, size = 0, len(cast(Floats, batch[0]))
            while taken < size:
                take = min(size - taken, rows - done % rows)
                for buffer, values in zip(held, batch, strict=False):
                    buffer[done % rows : done % rows + take] = cast(Floats, values)[taken : taken + take]
                taken, done = taken + take, done + take
                if done % rows == 0 or done == count:  # whole chunks, so that none is read again
                    start = (done - 1) // rows * rows
                    for array, buffer in zip(arrays, held, strict=True):
                        array[start:done] = buffer[: done - start]

        yield write


def _image_writer(folder: Path, *, count: int, classes: tuple[str, ...] | None) -> Write:
    from storage.datasets.pixels import encode_png, from_unit  # Pillow

    (folder / _MARK_FILE).touch()
    digits = max(6, len(str(count - 1)))
    start = 0

    def write(batch: Floats, label: Labels | None) -> None:
        nonlocal start
        for k, pixels in enumerate(from_unit(batch)):
            place = folder if label is None or classes is None else folder / _folder_name(int(label[k]), classes)
            place.mkdir(exist_ok=True)
            (place / f"{start + k:0{digits}}.png").write_bytes(encode_png(pixels))
        start += len(batch)

    return write


def _folder_name(label: int, classes: tuple[str, ...]) -> str:
    """Give a class's name, or its number where it has none that a folder can bear."""
    name = classes[label] if label < len(classes) else ""
    return name if name and "/" not in name and not name.startswith(".") else str(label)


def _holds_samples(path: Path) -> bool:
    """Tell whether :func:`sample_file` made a folder, so that no store of trajectories is ever taken for one."""
    if path.suffix == "":
        return path.is_dir() and ((path / _MARK_FILE).is_file() or not any(path.iterdir()))
    try:
        return dict(zarr.open_group(path, mode="r").attrs) == _MARK
    except (FileNotFoundError, ValueError, OSError):
        return False


def _write_header(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_2_0(file, {"descr": descr, "fortran_order": False, "shape": shape})


def _append(file: Any, x: Floats) -> None:
    file.write(np.ascontiguousarray(x, np.float32).data)
