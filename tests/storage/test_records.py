"""Files of JSON for people: a line a key, no NaN, and nothing of a newer format."""

import json

import pytest

from storage.errors import VersionError
from storage.records import pretty, require_known_version
from storage.specs import SCHEMA_VERSION


def test_a_record_is_read_back_as_it_was_and_has_a_line_a_key() -> None:
    content = {"rows": 3, "name": "moons"}
    text = pretty(content)
    assert json.loads(text) == content
    assert text.decode().splitlines() == ["{", ' "rows": 3,', ' "name": "moons"', "}"]


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        pretty({"loss": float("nan")})


def test_a_newer_format_is_refused_by_its_number() -> None:
    require_known_version("run.json", SCHEMA_VERSION)
    with pytest.raises(VersionError, match=rf"run.json has format {SCHEMA_VERSION + 1}, .* up to {SCHEMA_VERSION}; up"):
        require_known_version("run.json", SCHEMA_VERSION + 1)
