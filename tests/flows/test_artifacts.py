"""What Prefect's page is told of a working step."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from flows import artifacts
from tests.flows.test_runs import finish, open_moons


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


def test_a_server_that_is_away_is_asked_again_after_a_while_and_ends_no_step(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, is_away = 10.0, True
    told: list[str] = []

    def ask(*, description: str, **_: Any) -> UUID:
        told.append(description)
        if is_away:
            raise httpx.ConnectError("All connection attempts failed")
        return uuid4()

    monkeypatch.setattr("flows.artifacts.time.monotonic", lambda: now)
    for name in ("create_progress_artifact", "update_progress_artifact"):
        monkeypatch.setattr(artifacts, name, ask)
    artifact = artifacts.ProgressArtifact("integrate")
    for done in range(10):
        artifact(done, 1000, "trajectories")
        now += 10
    assert told == ["integrate"]
    assert "All connection attempts failed" in caplog.text
    is_away, now = False, now + 300
    artifact(500, 1000, "trajectories")
    artifact(1000, 1000, "trajectories")
    assert [words.partition(",")[0] for words in told[1:]] == ["trajectories"] * 2


def test_what_came_of_a_step_may_be_left_untold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(*, key: str, **_: Any) -> None:
        asked.append(key)
        raise httpx.ReadTimeout("")

    for name in ("create_table_artifact", "create_markdown_artifact"):
        monkeypatch.setattr(artifacts, name, refuse)
    artifacts.publish_step(finish(open_moons(tmp_path), "ingest"), "ingest", {"rows": 5, "metrics": {"w2": 1.0}})
    assert asked == ["moons-ingest-facts", "moons-ingest", "moons-metrics"]
