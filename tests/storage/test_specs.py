"""The requests of storage need the standard library only."""

import subprocess
import sys

import pytest

from storage.specs import SOURCE_KINDS, SourceSpec
from tests.storage.stores import PLAN


def test_importing_them_loads_no_engine() -> None:
    code = "import sys, storage.specs; print(sorted({'numpy', 'zarr'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        PLAN.seed = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        SourceSpec(kind=SOURCE_KINDS[0]).path = "elsewhere"  # type: ignore[misc]
