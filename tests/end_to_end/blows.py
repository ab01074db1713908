"""A driver that simulates a store on a running cluster, its disk slow and each chunk's solution on record.

    python -m tests.end_to_end.blows ADDRESS REQUEST

REQUEST is a pickled ``IntegrateRequest``. Before a worker solves a chunk it appends a line to a log beside the store:
chunk, process id, and whether there was no need to: the chunk had a record, or someone who lives had begun it.
"""

import os
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tasks.integrate
import tasks.simulation
from storage.commits import Commit
from storage.paths import Location
from storage.trajectories import Floats, TrajectoryStore
from tasks.executor import ray_session
from tasks.simulation import ChunkTask
from tasks.specs import ComputeSpec
from tasks.training.device import ON_CPU, Placement
from tasks.transport.field import VelocityField
from tests.local import on_disk

FSYNC_SECONDS = 0.03  # a chunk makes eight: blows meet the writing as often as the solving

_simulate_chunk, _solve_chunk, _fsync = tasks.simulation.simulate_chunk, tasks.simulation.solve_chunk, os.fsync


@dataclass(frozen=True)
class Solution:
    """That a process began to solve a chunk."""

    chunk: int
    pid: int
    is_needless: bool


def read_log(store: Location) -> list[Solution]:
    log = _log(store)
    lines = log.read_text().splitlines() if log.exists() else []
    return [Solution(int(chunk), int(pid), needless == "True") for chunk, pid, needless in map(str.split, lines)]


def alive(pid: int) -> bool:
    """Tell whether a process is there, and not only its exit code for whoever asks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _log(store: Location) -> Path:
    return on_disk(store).with_name("solutions.log")


def simulate_on_record(task: ChunkTask) -> Commit:
    """Do what ``simulate_chunk`` does, the disk slow, each solution on record."""

    def solve(plan: Any, chunk: int, *, field: VelocityField, placement: Placement = ON_CPU) -> Floats:
        others = [found.pid for found in read_log(task.store) if found.chunk == chunk]
        is_needless = TrajectoryStore.open(task.store).ledger.is_committed(chunk) or any(map(alive, others))
        with _log(task.store).open("a") as file:
            file.write(f"{chunk} {os.getpid()} {is_needless}\n")
        return _solve_chunk(plan, chunk, field=field, placement=placement)

    def sync(descriptor: int) -> None:
        time.sleep(FSYNC_SECONDS)
        _fsync(descriptor)

    tasks.simulation.solve_chunk = solve
    os.fsync = sync  # type: ignore[assignment]
    return _simulate_chunk(task)


def main(address: str, request: str) -> None:
    from tests.end_to_end import blows  # this module under its name, by which workers import it

    asked = pickle.loads(Path(request).read_bytes())
    tasks.integrate.simulate_chunk = blows.simulate_on_record  # type: ignore[attr-defined]
    with ray_session(ComputeSpec(address=address)) as executor:
        summary = tasks.integrate.integrate(asked, executor=executor, progress=lambda *_: None)
    print(summary.simulated)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
