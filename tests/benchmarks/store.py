"""What each way of storing trajectories costs and loses: bytes, speed of writing and reading, error of the last state.

Euler trajectories of 32 steps of a Gaussian in 64 dimensions by its exact velocity, one chunk of 1,024 rows written
again and again: encoded, made durable, read back, digested and committed. The limit writes the same plain chunk with
``numpy.save`` and reads it with ``numpy.load``, without any of that. Speeds are of the states as they are computed,
float32 of all 33 times, so that they compare; the error is of the last state, relative, root mean square.

    charflow bench store
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from storage.specs import TrajectoryPlan
from storage.trajectories import Floats, TrajectoryStore
from tasks.specs import TargetSpec
from tasks.storage_choices import choices
from tasks.transport.grid import time_grid
from tasks.transport.interpolant import Interpolant
from tasks.transport.noise import TRAJECTORIES, standard_normal
from tasks.transport.solver import solve
from tasks.transport.synthetic import oracle_target
from tasks.transport.targets import OracleField
from tests.storage.stores import plan_of

ROWS, DIM, STEPS = 1024, 64, 32
CHUNKS = 8


def characteristics(grid: torch.Tensor) -> Floats:
    """Give the states of the rows of one chunk, ``[ROWS, times, DIM]`` float32."""
    target = oracle_target(TargetSpec(kind="gaussian", mean=(1.0,) * DIM, std=tuple(np.linspace(0.2, 2, DIM))))
    assert target is not None
    x0 = standard_normal(0, 0, ROWS, (DIM,), stream=TRAJECTORIES).to(torch.float32)
    interpolant = Interpolant("linear")
    return solve(OracleField(interpolant, target), x0, grid, solver="euler", interpolant=interpolant).numpy()


def measure_way(states: Floats, write: Callable[[int], int], read: Callable[[int], Floats]) -> dict[str, float]:
    """Give bytes a trajectory, GB/s of writing and reading, and the relative error of the last state.

    Args:
        states: as they are computed.
        write: writes the chunk of this number, and tells its bytes.
        read: reads it.
    """
    written, taken, size, found = [], [], 0, states
    for chunk in range(CHUNKS):
        began = time.perf_counter()
        size = write(chunk)
        written.append(time.perf_counter() - began)
    for chunk in range(CHUNKS):
        began = time.perf_counter()
        found = read(chunk)
        taken.append(time.perf_counter() - began)
    gaps = found[:, -1].astype(np.float64) - states[:, -1]
    return {
        "bytes": size / ROWS,
        "write": states.nbytes / statistics.median(written) / 1e9,
        "read": states.nbytes / statistics.median(taken) / 1e9,
        "error": float(np.sqrt(np.square(gaps).mean() / np.square(states[:, -1], dtype=np.float64).mean())),
    }


def stored(folder: Path, states: Floats, plan: TrajectoryPlan) -> dict[str, float]:
    store = TrajectoryStore.create(folder / "trajectories.zarr", plan, rows=CHUNKS * ROWS)
    kept = states[:, list(plan.kept)].astype(plan.dtype)
    return measure_way(states, lambda chunk: store.write_chunk(chunk, kept).bytes, store.read_chunk)


def bare(folder: Path, states: Floats) -> dict[str, float]:
    def write(chunk: int) -> int:
        np.save(folder / f"{chunk}.npy", states)
        return states.nbytes

    return measure_way(states, write, lambda chunk: np.asarray(np.load(folder / f"{chunk}.npy")))


def measure() -> dict[str, object]:
    torch.set_num_threads(1)
    grid = time_grid("uniform", steps=STEPS, stop=1.0)
    states = characteristics(grid)
    whole = plan_of(dim=(DIM,), times=tuple(grid.tolist()), chunk_rows=ROWS)
    with tempfile.TemporaryDirectory() as scratch:
        found = {"limit": bare(Path(scratch), states)}
        for way in choices(STEPS):
            name = f"{way.precision} {way.codec} {way.save}"
            found[name] = stored(Path(scratch) / name, states, way.plan(whole))
    results = {name: round(facts["write"], 3) for name, facts in found.items()}
    detail = {
        name: f"{facts['bytes']:.0f} B a trajectory, read {facts['read']:.2f} GB/s, error {facts['error']:.1e}"
        for name, facts in found.items()
    }
    return {"bench": "store", "unit": "GB/s", "results": results, "detail": detail}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(json.dumps(measure(), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
