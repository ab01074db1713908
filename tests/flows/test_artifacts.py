"""What Prefect's page is told of a working step."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from flows import artifacts


def test_the_progress_artifact_says_rate_and_time_left_at_most_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, made = 10.0, uuid4()
    told: list[tuple[UUID, float, str]] = []

    def update(*, artifact_id: UUID, progress: float, description: str) -> None:
        told.append((artifact_id, progress, description))

    def create(**_: Any) -> UUID:
        return made

    monkeypatch.setattr("flows.artifacts.time.monotonic", lambda: now)
    monkeypatch.setattr(artifacts, "create_progress_artifact", create)
    monkeypatch.setattr(artifacts, "update_progress_artifact", update)
    artifact = artifacts.ProgressArtifact("integrate")
    for tick in range(5):  # half a second and 50 of 1,000 apart
        artifact(50 * tick, 1000, "trajectories")
        now += 0.5
    artifact(1000, 1000, "trajectories")
    assert told == [
        (made, 10.0, "trajectories"),
        (made, 20.0, "trajectories, 100/s, 0:00:08 left"),
        (made, 100.0, "trajectories, 400/s, 0:00:00 left"),
    ]
