"""Checkpoints beside the training: it goes on while they are written, and hears what went wrong."""

import threading
from pathlib import Path

import pytest

from storage.checkpoints import Checkpoint, CheckpointFolder
from tasks.training.checkpoint import CheckpointWriter


class Slow(CheckpointFolder):
    """Publishes nothing before it may."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.may = threading.Event()

    def save(self, checkpoint: Checkpoint) -> None:
        assert self.may.wait(10)
        super().save(checkpoint)


class Full(CheckpointFolder):
    """A disk without space."""

    def save(self, checkpoint: Checkpoint) -> None:
        raise OSError(f"no space for step {checkpoint.step}")


def test_the_training_goes_on_while_a_checkpoint_is_written_and_leaving_waits_for_it(tmp_path: Path) -> None:
    folder = Slow(tmp_path)
    with CheckpointWriter(folder) as writer:
        writer.save(Checkpoint(step=1, payload=b"one"))
        assert folder.steps() == []
        threading.Timer(0.05, folder.may.set).start()
        writer.save(Checkpoint(step=2, payload=b"two"))
        assert 1 in folder.steps()  # one at a time
    assert folder.newest() == Checkpoint(step=2, payload=b"two")


def write(folder: CheckpointFolder, *steps: int, error: type[Exception] | None = None) -> None:
    with CheckpointWriter(folder) as writer:
        for step in steps:
            writer.save(Checkpoint(step=step, payload=b"state"))
        if error is not None:
            raise error


def test_what_went_wrong_is_told_at_the_next_checkpoint_or_on_leaving(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space for step 1"):
        write(Full(tmp_path), 1, 2)
    with pytest.raises(OSError, match="no space for step 3"):
        write(Full(tmp_path), 3)


def test_an_error_of_the_training_is_told_first_and_the_checkpoint_kept(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError):
        write(CheckpointFolder(tmp_path), 1, error=FloatingPointError)
    assert CheckpointFolder(tmp_path).newest() == Checkpoint(step=1, payload=b"state")
    with pytest.raises(FloatingPointError):
        write(Full(tmp_path), 2, error=FloatingPointError)
