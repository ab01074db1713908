"""What steps tell while they work, and what they are told beside their knobs; nothing slow is imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from storage.paths import Location


@dataclass(frozen=True, kw_only=True)
class ChunkFacts:
    """What is known of the chunks of trajectories that were made so far."""

    bytes: int  # stored
    slowest_chunk: int
    slowest_seconds: float
    again: tuple[int, ...]  # given to a worker more than once: the first was lost, or too slow
    worker_host: str = ""  # that made the newest of them; each is told of once


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What is known of a network's training."""

    steps: int  # optimiser steps that were taken while this was followed: steps of before do not count
    loss: float  # mean since the last that was told
    wait_share: float  # of the time, for batches


Facts = ChunkFacts | TrainingFacts


class Progress(Protocol):
    """Is told now and then how far a step is: done, total, a few words on how it goes, and of some steps a bit more."""

    def __call__(self, done: int, total: int, words: str, facts: Facts | None = None, /) -> None:
        """Hear it."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingPlace:
    """Where a training keeps its files."""

    folder: Location  # of the model
    key: str  # of the stage; another key's checkpoints are never read

    @property
    def checkpoints(self) -> Location:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints" / self.key

    @property
    def admissions(self) -> Location:
        """Which chunks each epoch of an overlapping training covers; without them its checkpoints are worth nothing."""
        return self.checkpoints / "admissions"

    @property
    def journal(self) -> Location:
        """The metrics while training."""
        return self.checkpoints / "journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class ReportFacts:
    """What the report prints and only the flow knows."""

    run: str
    title: str  # the preset or file
    created: str
    configuration: str  # TOML
    versions: Mapping[str, str]
    seeds: Mapping[str, int]
    batches: Mapping[str, int]  # effective global batch of each training step
    seconds: Mapping[str, float]  # of the steps so far
    is_reused: Mapping[str, bool]
    orchestration: Mapping[str, float]  # seconds, by what took them
    lineage: Mapping[str, tuple[str, str]]  # step -> (key, run that holds it)
    simulated: int = 0  # trajectories that the seconds of integrate are of; 0: not known
