"""Where a real dataset comes from: the files that it consists of, and the digest by which a change of them is noticed.

Standard library only, since the command line asks before anything else is loaded; obstore is imported for addresses.
"""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from storage.atomic import write_atomic
from storage.checksum import DIGEST_BYTES, digest_file
from storage.errors import InputError
from storage.fingerprint import fingerprint
from storage.paths import Location
from storage.remote import holds_credentials, open_store, reason
from storage.remote import is_address as is_address  # for readers of datasets
from storage.specs import SourceSpec

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_IDX_PREFIXES = {"train": "train", "test": "t10k"}
_SPLIT_KINDS = ("idx", "parquet")  # whose folders hold files of each
_SETTLED_SECONDS = 2.0  # clocks of file systems are coarse: a file as young as that may change and keep its time


def open_address(address: str) -> Any:
    """Give the obstore store of an address, credentials from the environment.

    Raises:
        InputError: no store has such an address, or there are credentials in it.
    """
    if holds_credentials(address):
        raise InputError("dataset.path must be an address alone; credentials belong into the environment")
    from obstore.exceptions import BaseError  # not needed for files

    try:
        return open_store(address)
    except (BaseError, ValueError) as error:
        raise InputError(f"dataset.path {address!r} cannot be opened as a store: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """Give what an error says without the trace that some libraries put after it, and without a request's words."""
    if "Error performing" in str(error):  # obstore's, which quotes request and answer
        return reason(error)
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def source_files(spec: SourceSpec) -> tuple[Path, ...]:
    """Give the files of a dataset on disk in a fixed order; none for the digits.

    Raises:
        InputError: a file is missing, or the folder is not laid out as the kind needs it.
    """
    path = Path(spec.path)
    match spec.kind:
        case "idx":
            images, labels = idx_files(path, split=spec.split)
            return (images, labels) if labels else (images,)
        case "parquet":
            return parquet_files(path, split=spec.split)
        case "images":
            return tuple(path / name for name in image_tree(path).files)
        case "npz":
            return (npz_file(path),)
        case "zarr":
            return _all_files(path)
    return ()


def other_split(spec: SourceSpec) -> SourceSpec | None:
    """Give the split of a dataset's folder that the specification leaves out; None where it has no files there."""
    if spec.kind not in _SPLIT_KINDS or not Path(spec.path).is_dir():
        return None
    other = replace(spec, split="test" if spec.split == "train" else "train")
    try:
        source_files(other)
    except InputError:
        return None
    return other


def npz_file(path: Path) -> Path:
    """Give the archive.

    Raises:
        InputError: it is no file.
    """
    if not path.is_file():
        raise InputError(f"dataset.path {str(path)!r} is no file; it must be an .npz archive")
    return path


def idx_files(path: Path, *, split: str) -> tuple[Path, Path | None]:
    """Give the file of images and the file of labels beside it, if there is one.

    Args:
        path: of the images, or of a folder with MNIST's names, with or without ``.gz``.
        split: which images of a folder: train or test.

    Raises:
        InputError: there are no such images.
    """
    if path.is_dir():
        if split not in _IDX_PREFIXES:
            raise InputError(f"dataset.split must be train or test for dataset.kind = idx, got {split!r}")
        names = [f"{_IDX_PREFIXES[split]}-images{mark}idx3-ubyte{end}" for end in ("", ".gz") for mark in "-."]
        images = next((path / name for name in names if (path / name).is_file()), None)
        if images is None:
            raise InputError(f"dataset.path {str(path)!r} has no {names[0]} or {names[2]}; it must hold MNIST's files")
    else:
        images = _existing(path)
    return images, _labels_beside(images)


def _labels_beside(images: Path) -> Path | None:
    stem = images.name.removesuffix(".gz")
    wanted = stem.replace("images", "labels").replace("idx3", "idx1")
    if wanted == stem:
        return None  # the name does not tell
    return next((file for end in ("", ".gz") if (file := images.with_name(wanted + end)).is_file()), None)


def parquet_files(path: Path, *, split: str) -> tuple[Path, ...]:
    """Give the file, or the files ``<split>-*.parquet`` of a folder by name.

    Raises:
        InputError: there is none.
    """
    if not path.is_dir():
        return (_existing(path),)
    found = tuple(sorted(path.glob(f"{split}-*.parquet")))
    if not found:
        splits = sorted({file.name.split("-")[0] for file in path.glob("*-*.parquet")})
        raise InputError(
            f"dataset.path {str(path)!r} has no {split}-*.parquet; "
            f"its splits for dataset.split: {', '.join(splits) or 'none'}"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class ImageTree:
    """The images of a folder, class after class."""

    files: tuple[str, ...]  # inside the folder
    classes: tuple[str, ...]  # names of the folders; empty for a flat folder
    sizes: tuple[int, ...]  # files of each class


def image_tree(path: Path) -> ImageTree:
    """Find the images of a folder: one folder a class, sorted by name, or a flat folder without classes.

    Names that start with a dot and files that are no images are left out.

    Raises:
        InputError: there are no images, or some lie beside the folders, or a folder has none.
    """
    if not path.is_dir():
        _existing(path)
        raise InputError(f"dataset.path {str(path)!r} is no folder; dataset.kind = images needs one")
    folders = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
    flat = sorted(entry.name for entry in os.scandir(path) if entry.is_file() and _is_image(entry.name))
    if folders and flat:
        raise InputError(
            f"dataset.path {str(path)!r} has images beside its folders, like {flat[0]}; "
            "they must all lie in folders, one a class, or all in one folder without others"
        )
    found = [_images_below(path, folder) for folder in folders]
    empty = next((folder for folder, names in zip(folders, found, strict=True) if not names), None)
    if empty or not (folders or flat):
        raise InputError(f"{path / (empty or '')} has no images; known suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}")
    return ImageTree(
        files=tuple(flat or (name for names in found for name in names)),
        classes=tuple(folders),
        sizes=tuple(map(len, found)),
    )


def source_digest(spec: SourceSpec, *, cache: Location) -> str:
    """Give the digest of the contents of a dataset's files; of an object store, of what it tells about its objects.

    A digest is kept under the paths, sizes and times of the files, so files that have not changed are not read again.
    Data that no file holds have the digest ``""``.

    Args:
        spec: the dataset; its columns do not matter.
        cache: folder of the digests that were computed before, made when needed.

    Raises:
        InputError: the dataset is missing or cannot be read, or the cache cannot be written.
    """
    if is_address(spec.path) and spec.kind == "zarr":
        return _listing_digest(spec.path)
    files = source_files(spec)
    if not files:
        return ""
    facts = _facts(files)
    entry = cache / f"{fingerprint({'files': facts})}.json"
    found = _kept(entry)
    if found:
        return found
    is_settled = max(fact[2] for fact in facts) < (time.time() - _SETTLED_SECONDS) * 1e9
    found = fingerprint({"files": [[_name(file, spec), _digest(file)] for file in files]})
    if _facts(files) != facts:
        raise InputError(f"dataset.path {spec.path!r} changed while it was read; try again when it is complete")
    if is_settled:
        _keep(entry, found, spec)
    return found


def _facts(files: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """Give path, bytes, and times in nanoseconds of content and of any change, as those of a copy may be old."""
    found = []
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from error
        found.append((str(file.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return found


def _digest(file: Path) -> str:
    try:
        return digest_file(file)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error


def _name(file: Path, spec: SourceSpec) -> str:
    """Give a file's name inside the dataset, which tells an image's class."""
    path = Path(spec.path)
    return file.relative_to(path).as_posix() if path.is_dir() else file.name


def _kept(entry: Location) -> str:
    """Give the digest that was kept, or nothing where none was or it makes no sense."""
    try:
        found = str(json.loads(entry.read_bytes())["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return found if len(found) == 2 * DIGEST_BYTES else ""


def _keep(entry: Location, digest: str, spec: SourceSpec) -> None:
    content = {"digest": digest, "kind": spec.kind, "path": spec.path}
    try:
        write_atomic(entry, (json.dumps(content) + "\n").encode())
    except OSError as error:
        root = str(entry.parent.parent)
        raise InputError(f"root {root!r} must be a folder that can be written: {error.strerror or error}") from error


def _listing_digest(address: str) -> str:
    """Give the digest of the names, sizes and tags of all objects below an address."""
    from obstore.exceptions import BaseError  # not needed for files

    store = open_address(address)
    try:
        found = [
            [each["path"], each["size"], each["e_tag"] or each["last_modified"].isoformat()]
            for batch in store.list()
            for each in batch
        ]
    except (BaseError, OSError) as error:
        raise InputError(f"dataset.path {address!r} cannot be listed: {first_line(error)}") from None
    if not found:
        raise InputError(f"dataset.path {address!r} is missing; nothing lies there")
    return fingerprint({"objects": sorted(found)})


def _existing(path: Path) -> Path:
    if not path.exists():
        raise InputError(f"dataset.path {str(path)!r} is missing; it must name a file or folder that can be read")
    return path


def _all_files(path: Path) -> tuple[Path, ...]:
    if _existing(path).is_file():
        return (path,)
    return tuple(sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names))


def _images_below(path: Path, folder: str) -> list[str]:
    found = []
    for place, folders, names in os.walk(path / folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name).relative_to(path).as_posix() for name in names if _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
