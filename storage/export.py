"""Arrays and documents that leave charflow: samples by the suffix of their file, and a report's folder."""

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from storage.atomic import write_atomic
from storage.errors import InputError
from storage.trajectories import Floats

SAMPLE_SUFFIXES = (".npy", ".npz", ".png", ".zarr")


def check_sample_path(path: Path) -> None:
    """Raise :class:`InputError` unless samples can be written there."""
    if path.suffix not in SAMPLE_SUFFIXES:
        raise InputError(f"--out must end in one of {', '.join(SAMPLE_SUFFIXES)}, got {str(path)!r}")
    if not path.resolve().parent.is_dir():
        raise InputError(f"--out {str(path)!r} lies in no folder; make {path.resolve().parent} first")


def write_samples(path: Path, x: Floats) -> None:
    """Write samples ``x [count, *dim]`` as ``.npy``, ``.npz`` (array x) or ``.zarr`` (array x), replacing the file."""
    match path.suffix:
        case ".zarr":
            shutil.rmtree(path, ignore_errors=True)
            group = zarr.create_group(path, zarr_format=3)
            rows = min(len(x), max(1, 16 * 2**20 // x[0].nbytes))
            group.create_array("x", data=x, chunks=(rows, *x.shape[1:]), compressors=[Crc32cCodec()])
        case ".npz":
            write_atomic(path, _to_bytes(np.savez, x=x))
        case _:
            write_atomic(path, _to_bytes(np.save, arr=x))


def write_report(folder: Path, *, page: str, pictures: Mapping[str, bytes], metrics: Mapping[str, Any]) -> Path:
    """Write a report's pictures and metrics, then its page, and give the page's path."""
    for name, content in pictures.items():
        write_atomic(folder / f"{name}.png", content)
    write_atomic(folder / "metrics.json", (json.dumps(metrics, indent=1, allow_nan=False) + "\n").encode())
    write_atomic(folder / "index.html", page.encode())
    return folder / "index.html"


def _to_bytes(save: Any, **arrays: Floats) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()
