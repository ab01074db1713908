"""Arrays and documents that leave charflow: samples by the suffix of their file, and a report's folder."""

import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec

from storage.atomic import write_atomic
from storage.errors import InputError
from storage.paths import Location
from storage.records import pretty
from storage.trajectories import NO_CHUNK, Floats, Labels

_MARK: dict[str, Any] = {"charflow": "samples"}  # attributes of a group that later samples may replace
SAMPLE_SUFFIXES = (".npy", ".npz", ".png", ".zarr")


def check_sample_path(path: Path) -> None:
    """Raise :class:`InputError` unless samples can be written there."""
    if path.suffix not in SAMPLE_SUFFIXES:
        raise InputError(f"--out must end in one of {', '.join(SAMPLE_SUFFIXES)}, got {str(path)!r}")
    if not path.resolve().parent.is_dir():
        raise InputError(f"--out {str(path)!r} lies in no folder; make {path.resolve().parent} first")
    if path.suffix == ".zarr" and path.exists() and not _holds_samples(path):
        raise InputError(f"--out {str(path)!r} is there and holds no samples; name another place, or remove it first")


def write_samples(path: Path, x: Floats, *, label: Labels | None = None) -> None:
    """Write samples ``x [count, *dim]`` as ``.npy``, ``.npz`` (array x) or ``.zarr`` (array x), replacing earlier ones.

    Args:
        path: the file or folder.
        x: the samples.
        label: their classes, ``[count]``; an array ``label`` beside x, which ``.npy`` has no place for.

    Raises:
        InputError: samples cannot be written there.
    """
    check_sample_path(path)
    match path.suffix:
        case ".zarr":
            if path.exists():
                shutil.rmtree(path)
            group = zarr.create_group(path, zarr_format=3, attributes=_MARK)
            rows = min(len(x), max(1, 16 * 2**20 // x[0].nbytes))
            group.create_array("x", data=x, chunks=(rows, *x.shape[1:]), compressors=[Crc32cCodec()], fill_value=np.nan)
            if label is not None:
                group.create_array(
                    "label", data=label, chunks=(rows,), compressors=[Crc32cCodec()], fill_value=NO_CHUNK
                )
        case ".npz":
            write_atomic(path, _to_bytes(np.savez, x=x) if label is None else _to_bytes(np.savez, x=x, label=label))
        case ".npy":
            write_atomic(path, _to_bytes(np.save, arr=x))
        case _:
            raise InputError(
                f"samples can be written as .npy, .npz or .zarr, got {str(path)!r}; a picture is drawn first"
            )


def write_report(folder: Location, *, page: str, pictures: Mapping[str, bytes], metrics: Mapping[str, Any]) -> Location:
    """Write a report's pictures and metrics, then its page, and give the page's path."""
    for name, content in pictures.items():
        write_atomic(folder / f"{name}.png", content)
    write_atomic(folder / "metrics.json", pretty(metrics))
    write_atomic(folder / "index.html", page.encode())
    return folder / "index.html"


def _holds_samples(path: Path) -> bool:
    """Tell whether :func:`write_samples` made a folder, so that no store of trajectories is ever taken for one."""
    try:
        return dict(zarr.open_group(path, mode="r").attrs) == _MARK
    except (FileNotFoundError, ValueError, OSError):
        return False


def _to_bytes(save: Any, **arrays: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()
