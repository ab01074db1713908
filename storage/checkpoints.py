"""Training checkpoints: a payload, then a marker that makes it valid; the newest valid one is what counts."""

import json
import logging
from dataclasses import dataclass

from storage.atomic import write_atomic
from storage.checksum import digest
from storage.errors import VersionError
from storage.paths import Location

logger = logging.getLogger(__name__)

CHECKPOINT_VERSION = 2  # of the payload; in the first a stream's place named neither seed nor manifest


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a training after ``step`` optimiser steps."""

    step: int
    payload: bytes


class CheckpointFolder:
    """The checkpoints of one training; of two writers at one step either may win, both wrote the same state.

    Args:
        folder: where they lie, named after the training's key so that another training cannot read them.
        keep: how many of the newest stay.
    """

    def __init__(self, folder: Location, *, keep: int = 2) -> None:
        self.folder = folder
        self._keep = keep

    def save(self, checkpoint: Checkpoint) -> None:
        """Publish a checkpoint, then drop those that are too old."""
        write_atomic(self._payload(checkpoint.step), checkpoint.payload)
        marker = {"version": CHECKPOINT_VERSION, "step": checkpoint.step, "digest": digest(checkpoint.payload)}
        write_atomic(self._marker(checkpoint.step), json.dumps(marker).encode())
        # later steps can only be damaged ones that newest() passed over; they must not push out what is valid
        for step in [step for step in self.steps() if step <= checkpoint.step][: -self._keep]:
            self._marker(step).unlink(missing_ok=True)
            self._payload(step).unlink(missing_ok=True)

    def newest(self) -> Checkpoint | None:
        """Give the newest checkpoint whose bytes match its marker, skipping damaged ones with a warning.

        Raises:
            VersionError: it was written by another version of the format.
        """
        for step in reversed(self.steps()):
            payload = self._valid(step)
            if payload is not None:
                return Checkpoint(step=step, payload=payload)
            logger.warning("checkpoint of step %d in %s is damaged; going back to an older one", step, self.folder)
        return None

    def steps(self) -> list[int]:
        """Give the steps that have a marker, ascending."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.json"))

    def _valid(self, step: int) -> bytes | None:
        """Give the payload that the marker promises; None where there is another or none."""
        try:
            marker = json.loads(self._marker(step).read_bytes())
            payload = self._payload(step).read_bytes()
            if digest(payload) != marker["digest"]:
                return None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        version = marker.get("version", 1)
        if version != CHECKPOINT_VERSION:
            raise VersionError(
                f"{self._marker(step)} has format {version}, this charflow reads {CHECKPOINT_VERSION}; "
                f"go on with the charflow that wrote it, or delete {self.folder} to train anew"
            )
        return payload

    def _payload(self, step: int) -> Location:
        return self.folder / f"step-{step:08d}.pt"

    def _marker(self, step: int) -> Location:
        return self.folder / f"step-{step:08d}.json"
