"""Every kind has a reader, and others are named."""

from pathlib import Path

import numpy as np
import pytest

from storage.datasets.resolve import open_dataset
from storage.errors import InputError
from storage.specs import SOURCE_KINDS, SourceSpec


@pytest.mark.parametrize("kind", SOURCE_KINDS)
def test_every_kind_opens_and_keeps_the_protocol(kind: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((5, 3)))
    data = open_dataset(SourceSpec(kind=kind, path=str(tmp_path / "data.npz")))
    x, label = data.read(1, 4)
    assert x.shape == (3, *data.dim)
    assert x.dtype == np.float32
    assert (label is not None) == data.has_labels
    assert data.rows >= 5


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"dataset\.kind must be one of digits, npz.*, got 'sounds'"):
        open_dataset(SourceSpec(kind="sounds"))
