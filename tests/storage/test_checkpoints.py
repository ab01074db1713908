"""Checkpoints: the newest valid one counts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.checkpoints import Checkpoint, CheckpointFolder
from storage.errors import VersionError
from tests.local import on_disk
from tests.storage.disk import deaths


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "checkpoints")


def save(folder: CheckpointFolder, *steps: int) -> None:
    for step in steps:
        folder.save(Checkpoint(step=step, payload=f"state {step}".encode()))


def newest(folder: CheckpointFolder) -> int | None:
    found = folder.newest()
    assert found is None or found.payload == f"state {found.step}".encode()
    return found.step if found else None


def file(folder: CheckpointFolder, step: int, suffix: str) -> Path:
    return on_disk(folder.folder) / f"step-{step:08d}.{suffix}"


def test_a_training_that_never_saved_has_none(folder: CheckpointFolder) -> None:
    assert folder.newest() is None
    assert folder.steps() == []


def test_the_newest_is_given_and_two_are_kept(folder: CheckpointFolder) -> None:
    for step in (5, 10, 15, 100_000_000):
        save(folder, step)
        assert newest(folder) == step
    assert folder.steps() == [15, 100_000_000]
    assert len(list(folder.folder.iterdir())) == 4


def test_more_are_kept_where_asked(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=3)
    save(folder, 1, 2, 3, 4, 5)
    assert folder.steps() == [3, 4, 5]


@pytest.mark.parametrize("content", [None, b"", b"state 1", b"state 11"])
def test_a_damaged_payload_is_passed_over_with_a_warning(
    content: bytes | None, folder: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, 5, 10)
    payload = file(folder, 10, "pt")
    payload.unlink() if content is None else payload.write_bytes(content)
    assert newest(folder) == 5
    assert [record.getMessage() for record in caplog.records] == [
        f"checkpoint of step 10 in {folder.folder} is damaged; going back to an older one"
    ]


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"digest": 3}'])
def test_a_damaged_marker_is_passed_over_with_a_warning(
    content: str, folder: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, 5, 10)
    file(folder, 10, "json").write_text(content)
    assert newest(folder) == 5
    assert "step 10" in caplog.text


@pytest.mark.parametrize("version", [None, 1, 3])
def test_another_version_is_refused_with_a_remedy_unless_it_is_damaged(
    version: int | None, folder: CheckpointFolder
) -> None:
    save(folder, 5, 10)
    marker = json.loads(file(folder, 10, "json").read_bytes())
    assert marker.pop("version") == 2
    file(folder, 10, "json").write_text(json.dumps(marker | ({} if version is None else {"version": version})))
    words = rf"step-00000010.json has format {version or 1}, this charflow reads 2; .* delete {folder.folder} to train"
    with pytest.raises(VersionError, match=words):
        folder.newest()
    file(folder, 10, "pt").write_bytes(b"rubbish")
    assert newest(folder) == 5


def test_a_payload_without_a_marker_does_not_count(folder: CheckpointFolder, caplog: pytest.LogCaptureFixture) -> None:
    save(folder, 5, 10)
    file(folder, 10, "json").unlink()
    assert newest(folder) == 5
    assert caplog.text == ""


def test_swapped_payloads_are_both_damaged(folder: CheckpointFolder, caplog: pytest.LogCaptureFixture) -> None:
    save(folder, 5, 10)
    one, two = file(folder, 5, "pt"), file(folder, 10, "pt")
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert newest(folder) is None
    assert len(caplog.records) == 2


def test_damaged_later_checkpoints_do_not_push_out_what_is_written_after_going_back(folder: CheckpointFolder) -> None:
    folder_of_many = CheckpointFolder(folder.folder, keep=4)
    save(folder_of_many, 10, 20, 30)
    for step in (20, 30):
        file(folder, step, "pt").write_bytes(b"rubbish")
    assert newest(folder) == 10
    save(folder, 15)
    assert newest(folder) == 15
    save(folder, 20)
    assert newest(folder) == 20


def test_saving_a_step_again_replaces_it(folder: CheckpointFolder) -> None:
    save(folder, 5, 10)
    file(folder, 10, "pt").write_bytes(b"rubbish")
    save(folder, 10)
    assert newest(folder) == 10
    assert folder.steps() == [5, 10]


def test_a_death_at_any_call_of_a_save_leaves_the_former_or_the_new(tmp_path: Path) -> None:
    seen = set()

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            left = CheckpointFolder(tmp_path / str(k - 1))
            seen.add(newest(left))
            save(left, 15, 20)
            assert newest(left) == 20
            assert left.steps() == [15, 20]
        folder = CheckpointFolder(tmp_path / str(k))
        save(folder, 5, 10)
        return lambda: save(folder, 15)

    assert deaths(act) > 6
    assert seen == {10, 15}
