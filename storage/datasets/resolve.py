"""Which reader serves which kind of real dataset; what only one kind needs is imported for it alone."""

from pathlib import Path

from storage.data import Dataset
from storage.errors import InputError
from storage.specs import SOURCE_KINDS, SourceSpec


def open_dataset(spec: SourceSpec) -> Dataset:
    """Open a dataset for reading.

    Raises:
        InputError: the kind is unknown, or its files are not what they should be.
    """
    path = Path(spec.path)
    match spec.kind:
        case "digits":
            from storage.datasets.digits import Digits

            return Digits()
        case "idx":
            from storage.datasets.idx import Idx

            return Idx(path, split=spec.split)
        case "parquet":
            from storage.datasets.parquet import Parquet

            return Parquet(path, split=spec.split, column=spec.column, label_column=spec.label_column)
        case "images":
            from storage.datasets.images import Images

            return Images(path)
        case "npz":
            from storage.datasets.npz import Npz

            return Npz(path, column=spec.column, label_column=spec.label_column)
        case "zarr":
            from storage.datasets.zarr_array import ZarrArray

            return ZarrArray(spec.path, column=spec.column, label_column=spec.label_column)
    raise InputError(f"dataset.kind must be one of {', '.join(SOURCE_KINDS)}, got {spec.kind!r}")
