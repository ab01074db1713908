"""Studies: ``ROOT/<study>/study.json`` says what a study is of and, once it is done, what came of it.

A study's runs are runs like any other. Its own folder has no ``run.json``, so no command takes a study for a run.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from storage.atomic import create_exclusive, write_atomic
from storage.catalog import is_name
from storage.errors import DamagedError, InputError
from storage.paths import Location, RunPaths
from storage.records import pretty, require_known_version
from storage.specs import SCHEMA_VERSION


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """What is known of a study."""

    version: int = SCHEMA_VERSION
    name: str
    identity: str  # of its sweeps and configurations, but for the count of trajectories
    config: str  # what it was made from: a preset or a file's name
    created: str  # UTC, ISO 8601
    key: str = ""  # of what the result was measured on; empty: nothing was measured yet
    result: Mapping[str, Any] = field(default_factory=dict)  # what the command prints


def claim_study(root: Location, record: StudyRecord) -> StudyRecord:
    """Write the record of a new study, or give the one that is there.

    Raises:
        InputError: the root cannot be written.
        DamagedError: what is there cannot be read.
    """
    path = RunPaths(root, record.name).study
    try:
        is_ours = create_exclusive(path, pretty(asdict(record)))
    except OSError as error:
        raise InputError(
            f"root {str(root)!r} must be a folder that can be written: {error.strerror or error}"
        ) from error
    return record if is_ours else _read(path)


def find_study(root: Location, name: str) -> StudyRecord | None:
    """Give the study of a name; None where there is none.

    Raises:
        DamagedError: its record cannot be read.
    """
    path = RunPaths(root, name).study
    return _read(path) if path.is_file() else None


def finish_study(root: Location, record: StudyRecord, *, key: str, result: Mapping[str, Any]) -> StudyRecord:
    """Publish what came of a study, and give its record."""
    finished = replace(record, key=key, result=result)
    write_atomic(RunPaths(root, record.name).study, pretty(asdict(finished)))
    return finished


def _read(path: Location) -> StudyRecord:
    try:
        content = json.loads(path.read_bytes())
        require_known_version(path, content["version"])
        found = StudyRecord(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is no study's record; delete it, and run the study again") from error
    if not is_name(str(found.name)):
        raise DamagedError(f"{path} names what cannot be a study's folder; delete it, and run the study again")
    return found
