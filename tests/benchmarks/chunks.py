"""What a chunk costs beside its solution: chunks a second where solving costs little, and memory over many chunks.

Small chunks are 64 rows of a Gaussian in the plane, four steps of its exact velocity. charflow simulates 10,000 of
them; the naive way is one Prefect task a chunk through ``RayTaskRunner``, on workers that are warm, doing the same work
(left out where ``prefect-ray`` is not installed). Memory is the peak of the largest worker and of the driver in a
session of its own, in MiB: after 100 small chunks, after 10,000, and after eight of 8 MiB (1,024 rows in 64 dimensions,
32 steps).

    charflow bench chunks
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from storage.models import publish_model, read_model
from storage.trajectories import TrajectoryStore
from tasks.executor import ray_session
from tasks.integrate import IntegrateRequest, integrate, plan_trajectories
from tasks.reaper import descendants
from tasks.simulation import ChunkTask, simulate_chunk
from tasks.specs import ComputeSpec, InterpolantSpec, TrajectoriesSpec
from tests.local import on_disk

FEW, MANY, NAIVE, BIG = 100, 10_000, 300, 8  # numbers of chunks
WORKERS = 2
_WORKERS = ("ray::IDLE", "ray::simulate_chunk")  # what Ray calls the processes


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a chunk."""

    rows: int
    dim: int
    steps: int


SMALL, LARGE = Size(rows=64, dim=2, steps=4), Size(rows=1024, dim=64, steps=32)


def request_of(folder: Path, *, name: str, chunks: int, size: Size) -> IntegrateRequest:
    """Give the request of a simulation by a velocity that costs little, which is published here."""
    target = {"kind": "gaussian", "mean": [0.0] * size.dim, "std": [2.0] * size.dim, "components": 8}
    rest = {"interpolant": "linear", "mean": [0.0] * size.dim, "scale": [1.0] * size.dim, "key": "bench"}
    publish_model(folder / name / "velocity", spec={"kind": "oracle", "target": target, **rest})
    return IntegrateRequest(
        trajectories=TrajectoriesSpec(count=chunks * size.rows, chunk_rows=size.rows, steps=size.steps),
        interpolant=InterpolantSpec(),
        seed=0,
        dim=(size.dim,),
        data=folder / "data.zarr",
        velocity=folder / name / "velocity",
        store=folder / name / "trajectories.zarr",
    )


def session(request: IntegrateRequest, answer: Connection) -> None:
    """Simulate in a session of its own, and tell the seconds and the peaks of worker and driver, MiB."""
    with ray_session(ComputeSpec(cpus=WORKERS)) as executor:
        warm = request_of(on_disk(request.velocity).parent, name="warm", chunks=4, size=SMALL)
        integrate(warm, executor=executor, progress=lambda *_: None)
        began = time.perf_counter()
        integrate(request, executor=executor, progress=lambda *_: None)
        seconds = time.perf_counter() - began
        workers = [peak(pid) for pid in descendants(os.getpid()) if command(pid).startswith(_WORKERS)]
        answer.send((seconds, max(workers), peak(os.getpid())))


def apart(request: IntegrateRequest) -> tuple[float, float, float]:
    """Run :func:`session` in a fresh process and give its answer."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=session, args=(request, sender))
    process.start()
    seconds, worker, driver = receiver.recv()
    process.join()
    return float(seconds), float(worker), float(driver)


def peak(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def naive_seconds(folder: Path, request: IntegrateRequest) -> float:
    """Give the seconds a chunk of one Prefect task each, into a store that was planned before."""
    from flows.server import prefect_api

    with prefect_api(folder / "prefect") as wait, ray_session(ComputeSpec(cpus=WORKERS)):
        from prefect import flow, task
        from prefect.cache_policies import NO_CACHE
        from prefect_ray import RayTaskRunner

        wait()
        plan = plan_trajectories(request, velocity_digest=read_model(request.velocity).digest)
        TrajectoryStore.create(request.store, plan, rows=request.trajectories.count)
        items = [ChunkTask(velocity=request.velocity, store=request.store, chunk=k) for k in range(NAIVE)]
        simulate = task(persist_result=False, cache_policy=NO_CACHE)(simulate_chunk)

        @flow(task_runner=RayTaskRunner(), persist_result=False)
        def one_task_a_chunk() -> float:
            for future in [simulate.submit(item) for item in items[: 2 * WORKERS]]:
                future.result()
            began = time.perf_counter()
            for future in [simulate.submit(item) for item in items[2 * WORKERS :]]:
                future.result()
            return (time.perf_counter() - began) / (NAIVE - 2 * WORKERS)

        return one_task_a_chunk()


def measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        seconds, memory = {}, {}
        cases = {f"{FEW} small": (FEW, SMALL), f"{MANY} small": (MANY, SMALL), f"{BIG} large": (BIG, LARGE)}
        for name, (chunks, size) in cases.items():
            seconds[name], worker, driver = apart(request_of(folder, name=name, chunks=chunks, size=size))
            memory[name] = {"worker": round(worker), "driver": round(driver)}
            sys.stderr.write(f"{name}: {seconds[name]:.1f} s, {memory[name]} MiB\n")
        results = {"charflow": MANY / seconds[f"{MANY} small"]}
        if importlib.util.find_spec("prefect_ray"):
            request = request_of(folder, name="naive", chunks=NAIVE, size=SMALL)
            results["prefect_task_a_chunk"] = 1 / naive_seconds(folder, request)
    detail: dict[str, object] = {
        "memory_mib": memory,
        "large_chunk_mib": LARGE.rows * (LARGE.steps + 1) * LARGE.dim * 4 / 2**20,
    }
    if len(results) > 1:
        detail["times_prefect_task_a_chunk"] = round(results["charflow"] / results["prefect_task_a_chunk"], 1)
    rounded = {name: round(value, 1) for name, value in results.items()}
    return {"bench": "chunks", "unit": "chunks/s", "results": rounded, "detail": detail}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(json.dumps(measure(), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
