"""Which reader serves which kind of real dataset."""

from pathlib import Path

from storage.data import Dataset
from storage.datasets.digits import Digits
from storage.datasets.npz import Npz
from storage.errors import InputError
from storage.specs import SOURCE_KINDS, SourceSpec


def open_dataset(spec: SourceSpec) -> Dataset:
    """Open a dataset for reading.

    Raises:
        InputError: the kind is unknown, or its file is not what it should be.
    """
    match spec.kind:
        case "digits":
            return Digits()
        case "npz":
            return Npz(Path(spec.path))
    raise InputError(f"dataset.kind must be one of {', '.join(SOURCE_KINDS)}, got {spec.kind!r}")
