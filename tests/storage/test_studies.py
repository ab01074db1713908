"""Records of studies: claimed once, finished once, and never taken for a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from storage.catalog import Catalog
from storage.errors import DamagedError, InputError, VersionError
from storage.studies import StudyRecord, claim_study, find_study, finish_study

RECORD = StudyRecord(name="s", identity="i", config="moons", created="today")


def test_the_first_claim_counts(tmp_path: Path) -> None:
    assert find_study(tmp_path, "s") is None
    assert claim_study(tmp_path, RECORD) == RECORD
    assert claim_study(tmp_path, replace(RECORD, identity="other")) == RECORD
    assert find_study(tmp_path, "s") == RECORD


def test_what_came_of_it_is_kept(tmp_path: Path) -> None:
    claim_study(tmp_path, RECORD)
    finished = finish_study(tmp_path, RECORD, key="k", result={"points": [1.5]})
    assert finished == replace(RECORD, key="k", result={"points": [1.5]})
    assert find_study(tmp_path, "s") == finished


def test_a_study_is_no_run_and_its_name_is_taken(tmp_path: Path) -> None:
    claim_study(tmp_path, RECORD)
    catalog = Catalog(tmp_path)
    assert catalog.runs() == []
    with pytest.raises(InputError, match="name 's' is a study's; choose another"):
        catalog.claim("s", identity="abcdefgh", config="moons", is_explicit=True)
    assert catalog.claim("s", identity="abcdefgh", config="moons", is_explicit=False).name == "s-abcdef"
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["study.json"]


def test_a_root_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="must be a folder that can be written"):
        claim_study(tmp_path / "file", RECORD)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "what": 2}'])
def test_a_record_that_makes_no_sense_is_damaged(content: str, tmp_path: Path) -> None:
    claim_study(tmp_path, RECORD)
    path = tmp_path / "s" / "study.json"
    path.write_text(content)
    with pytest.raises(DamagedError, match=r"study\.json is no study's record; delete it"):
        find_study(tmp_path, "s")


def test_a_newer_format_is_not_guessed_at(tmp_path: Path) -> None:
    claim_study(tmp_path, RECORD)
    path = tmp_path / "s" / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(VersionError, match="has format 99"):
        find_study(tmp_path, "s")
