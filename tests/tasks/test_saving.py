"""The names of what is stored, read and given back."""

import pytest

from tasks.saving import precision_name, save_name, saved_steps, stored_precision


@pytest.mark.parametrize("precision", ["float16", "float32", "float64", "round-1", "round-22"])
def test_a_precision_is_named_as_it_is_read(precision: str) -> None:
    assert precision_name(*stored_precision(precision)) == precision


@pytest.mark.parametrize(
    ("save", "last"),
    [(save, last) for last in (1, 2, 7, 12) for save in ("all", "endpoints", "every-1", f"every-{(last + 1) // 2}")],
)
def test_saved_steps_get_a_name_that_reads_as_them(save: str, last: int) -> None:
    steps = saved_steps(save, last=last)
    assert saved_steps(save_name(steps, last=last), last=last) == steps


def test_the_shortest_name_is_taken_and_a_list_where_there_is_none() -> None:
    assert save_name((0, 1), last=1) == "all"
    assert save_name((0, 2), last=2) == "endpoints"
    assert save_name((0, 3, 6, 7), last=7) == "every-3"
    assert save_name((0, 1, 7), last=7) == (0, 1, 7)
