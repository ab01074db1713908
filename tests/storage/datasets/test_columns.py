"""Names of columns: the one asked for, or a usual one; others are listed."""

import numpy as np
import pytest

from storage.datasets.columns import data_column, label_column, to_single
from storage.errors import InputError


@pytest.mark.parametrize("name", ["x", "image", "img", "pixel_values"])
@pytest.mark.parametrize("label", ["label", "labels", "fine_label", "y"])
def test_usual_names_are_found(name: str, label: str) -> None:
    names = ["id", label, name]
    assert data_column(names, "", path="f") == name
    assert label_column(names, "", path="f") == label


def test_the_name_asked_for_wins() -> None:
    names = ["x", "image", "label", "coarse_label"]
    assert data_column(names, "image", path="f") == "image"
    assert label_column(names, "coarse_label", path="f") == "coarse_label"


def test_a_missing_label_is_none_and_missing_data_list_what_there_is() -> None:
    assert label_column(["x"], "", path="f") == ""
    with pytest.raises(InputError, match=r"f has no column x, image.*; set dataset\.column to one of: a, b"):
        data_column(["a", "b"], "", path="f")
    with pytest.raises(InputError, match=r"dataset\.column 'c' is not in f; it has: a, b"):
        data_column(["a", "b"], "c", path="f")
    with pytest.raises(InputError, match=r"dataset\.label_column 'c' is not in f; it has: a, b"):
        label_column(["a", "b"], "c", path="f")


def test_a_number_beyond_single_precision_becomes_infinite_without_a_warning() -> None:
    assert to_single(np.array([1e300, -1e300, 2.0])).tolist() == [np.inf, -np.inf, 2]
