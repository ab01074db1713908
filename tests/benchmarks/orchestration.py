"""What a chunk costs beside its solution: 100,000 chunks through the real executor, ledger and commits, a stub solver.

Real are plan, executor (Ray, two CPUs), tasks, encoding, files and their syncs, commit records, receipts, what the
driver tells of them (progress file, log), and the seal. A stub is the solution: a constant block of one row.
``charflow`` is what a chunk takes beyond its work, by the workers' own clocks, shared among them; ``driver`` is the
processor time of the driver, all threads; ``wall`` is all. The limit is an empty Ray task, as many in flight. Memory is
the driver's resident set when a tenth, a half and all of the chunks are in, and after the seal.

    charflow bench orchestration
    python -m tests.benchmarks.orchestration --chunks 3000
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tasks.integrate
import tasks.simulation
from flows.progress import ProgressFile
from storage.commits import Commit
from storage.trajectories import Floats, TrajectoryStore
from tasks.executor import RayExecutor, ray_session
from tasks.facts import Facts
from tasks.integrate import IntegrateRequest, integrate
from tasks.simulation import ChunkTask
from tasks.specs import ComputeSpec, TrajectoriesSpec
from tests.tasks.test_integrate import request_of

CHUNKS = 100_000
WORKERS = 2
EMPTY = 3000  # tasks, for the limit
SHARES = (0.1, 0.5, 1.0)

_simulate_chunk = tasks.simulation.simulate_chunk


def block(plan: Any, chunk: int, **_: object) -> Floats:
    """Stand for a solution."""
    return np.full((plan.chunk_rows, len(plan.times), *plan.dim), float(chunk), dtype=plan.dtype)


def simulate_stub(task: ChunkTask) -> Commit:
    """Do what ``simulate_chunk`` does, without solving anything."""
    tasks.simulation.solve_chunk = block
    return _simulate_chunk(task)


def nothing(item: int) -> int:
    return item


@dataclass
class Account:
    """What the driver is told, and how large it is then."""

    file: ProgressFile
    resident: dict[float, float] = field(default_factory=dict)  # MB, by the share of chunks that is in

    def __call__(self, done: int, total: int, words: str, facts: Facts | None = None, /) -> None:
        self.file(done, total, words, facts)
        for share in SHARES:
            if share not in self.resident and done >= share * total:
                self.resident[share] = resident_mb()
                print(f"{share:.0%}: {self.resident[share]:.0f} MB", file=sys.stderr, flush=True)  # noqa: T201


def resident_mb() -> float:
    """Give the resident set of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@contextmanager
def stub() -> Iterator[None]:
    """Let workers simulate by :func:`simulate_stub`."""
    from tests.benchmarks import orchestration  # this module under its name, by which workers import it

    before = tasks.integrate.simulate_chunk  # type: ignore[attr-defined]
    tasks.integrate.simulate_chunk = orchestration.simulate_stub  # type: ignore[attr-defined]
    try:
        yield
    finally:
        tasks.integrate.simulate_chunk = before  # type: ignore[attr-defined]


def empty_tasks(executor: RayExecutor) -> float:
    """Give the seconds that an empty task takes, with as many in flight."""
    from tests.benchmarks import orchestration

    took = 0.0
    for count in (100, EMPTY):  # the first start the workers
        began = time.perf_counter()
        sum(1 for _ in executor.map(orchestration.nothing, range(count)))
        took = time.perf_counter() - began
    return took / EMPTY


def simulate_all(request: IntegrateRequest, executor: RayExecutor, account: Account) -> tuple[float, float]:
    """Give the wall time of the whole step, and the driver's processor time in it."""
    began, busy = time.perf_counter(), time.process_time()
    with stub():
        integrate(request, executor=executor, progress=account)
    return time.perf_counter() - began, time.process_time() - busy


def measure(chunks: int, folder: Path) -> dict[str, Any]:
    request = request_of(folder, spec=TrajectoriesSpec(count=chunks, steps=1, chunk_rows=1))
    account = Account(ProgressFile(folder / "progress.json", "integrate"))
    with ray_session(ComputeSpec(cpus=WORKERS)) as executor:
        limit = empty_tasks(executor)
        wall, driver = simulate_all(request, executor, account)
    store = TrajectoryStore.open(request.store)
    work = sum(commit.seconds for commit in store.ledger.read_many(range(chunks))) / WORKERS
    results = {"charflow": wall - work, "driver": driver, "wall": wall}
    memory = {f"driver_mb_at_{share:.0%}": round(found, 1) for share, found in account.resident.items()}
    return {
        "bench": "orchestration",
        "unit": "ms a chunk",
        "results": {name: round(1000 * seconds / chunks, 3) for name, seconds in results.items()}
        | {"limit": round(1000 * limit, 3)},
        "detail": {"chunks": chunks, "workers": WORKERS, "seconds": round(wall, 1), **memory}
        | {"driver_mb_after_seal": round(resident_mb(), 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=CHUNKS)
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(parser.parse_args().chunks, Path(scratch)), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
