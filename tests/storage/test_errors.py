"""The errors' family, which callers rely on."""

import pickle

import pytest

from storage import errors
from storage.errors import InputError, RunConflictError, StorageError, UnknownRunError

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type)]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_a_storage_error_and_survives_the_way_between_processes(kind: type[Exception]) -> None:
    assert issubclass(kind, StorageError)
    again = pickle.loads(pickle.dumps(kind("chunk 3 is gone")))
    assert type(again) is kind
    assert again.args == ("chunk 3 is gone",)


def test_bad_input_is_also_the_value_error_that_a_caller_expects() -> None:
    assert {kind for kind in ALL if issubclass(kind, ValueError)} == {InputError, UnknownRunError, RunConflictError}
