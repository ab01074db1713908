"""The end of a study: what is told of its points when they are measured."""

from pathlib import Path
from typing import Any

import pytest

import flows.conclude
from tasks.study import StudyRequest
from tests.flows.test_studies import do, study_of


def request_for(root: Path, monkeypatch: pytest.MonkeyPatch, *changes: str) -> StudyRequest:
    """Give what is asked of the measuring, which is not done."""
    asked: list[StudyRequest] = []

    def keep(request: StudyRequest, **_: object) -> dict[str, Any]:
        asked.append(request)
        return {"study": request.study}

    monkeypatch.setattr(flows.conclude, "measure_study", keep)
    study = study_of(root, *changes, sweeps=("dataset.count=100,200",))
    do(study)
    flows.conclude.conclude(study)
    return asked[0]


def test_points_on_a_sphere_tell_its_dimension_and_others_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sphere = request_for(tmp_path / "a", monkeypatch, "dataset.kind=sphere", "dataset.dim=3", "dataset.intrinsic=2")
    assert [point.intrinsic for point in sphere.points] == [2, 2]
    plane = request_for(tmp_path / "b", monkeypatch)
    assert [point.intrinsic for point in plane.points] == [None, None]
