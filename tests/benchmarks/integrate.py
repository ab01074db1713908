"""Trajectories simulated by Ray tasks into a committed store, against a bare loop on as many cores that stores nothing.

100,000 Euler trajectories of 32 steps in 64 dimensions through a perceptron 512x4. The limit is two processes of one
thread, ready before the clock starts, that follow half the rows each and forget every state. charflow draws each row's
own noise, keeps all 33 states, writes, reads back, digests and commits them; a small store before it starts Ray's
workers, which is told apart. torchdiffeq follows the same field with two threads and saves the states with numpy; it
is left out where it is not installed. They take turns, limit first and last, and each is its mean. What small chunks
cost, beside a Prefect task each, and the memory of many come after it (``charflow bench chunks``).

    charflow bench integrate
"""

import argparse
import importlib.util
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch

from storage.models import publish_model
from tasks.executor import RayExecutor, ray_session
from tasks.fit_velocity import load_velocity
from tasks.integrate import IntegrateRequest, integrate
from tasks.networks.build import build_denoiser
from tasks.specs import ComputeSpec, InterpolantSpec, NetworkSpec, TrajectoriesSpec
from tasks.training.checkpoint import weights_to_bytes
from tasks.training.device import block_rows
from tasks.transport.grid import time_grid
from tests.benchmarks import chunks

ROWS = 100_000
DIM = 64
STEPS = 32
STOP = 0.999
WORKERS = 2
ROUNDS = 2
SUB_BATCH = block_rows((DIM,))
NETWORK = NetworkSpec(width=512, depth=4)


def publish(folder: Path) -> Path:
    """Publish a network that nobody trained, which costs what a trained one does."""
    denoiser = build_denoiser(NETWORK, (DIM,), seed=0, interpolant="linear", data_std=1.0)
    torch.nn.init.normal_(denoiser.backbone.output.weight, std=0.02)  # type: ignore[union-attr, arg-type]
    spec = {
        "kind": "network",
        "network": asdict(NETWORK),
        "dim": [DIM],
        "interpolant": "linear",
        "data_std": 1.0,
        "classes": 0,
        "key": "bench",
    }
    publish_model(folder / "velocity", spec=spec, weights=weights_to_bytes(denoiser.state_dict()))
    return folder / "velocity"


def request_of(folder: Path, *, name: str, rows: int) -> IntegrateRequest:
    return IntegrateRequest(
        trajectories=TrajectoriesSpec(count=rows, steps=STEPS, stop=STOP),
        interpolant=InterpolantSpec(),
        seed=0,
        dim=(DIM,),
        data=folder / "data.zarr",
        velocity=folder / "velocity",
        store=folder / name / "trajectories.zarr",
    )


def euler(velocity: Path, ready: Barrier, rows: int) -> None:
    """Follow so many trajectories and forget them."""
    torch.set_num_threads(1)
    field = load_velocity(velocity)
    grid = time_grid("uniform", steps=STEPS, stop=STOP, rho=7.0)
    with torch.no_grad():
        field.velocity(grid[0], torch.zeros(SUB_BATCH, DIM))
        ready.wait()
        for start in range(0, rows, SUB_BATCH):
            x = torch.randn(min(SUB_BATCH, rows - start), DIM)
            for k in range(STEPS):
                x = x + (grid[k + 1] - grid[k]) * field.velocity(grid[k], x)


def bare(velocity: Path) -> float:
    """Give the seconds of the bare loop in as many processes as charflow has workers."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(WORKERS + 1)
    processes = [context.Process(target=euler, args=(velocity, ready, ROWS // WORKERS)) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    ready.wait()
    began = time.perf_counter()
    for process in processes:
        process.join()
    return time.perf_counter() - began


def ours(executor: RayExecutor, request: IntegrateRequest) -> float:
    began = time.perf_counter()
    integrate(request, executor=executor, progress=lambda *_: None)
    return time.perf_counter() - began


def by_torchdiffeq(velocity: Path, folder: Path) -> float:
    """Follow the same field as its manual shows, in batches that memory takes, and save each."""
    from torchdiffeq import odeint

    torch.set_num_threads(WORKERS)
    field, batch = load_velocity(velocity), 16_384
    grid = time_grid("uniform", steps=STEPS, stop=STOP, rho=7.0).to(torch.float32)
    began = time.perf_counter()
    with torch.no_grad():
        for k, start in enumerate(range(0, ROWS, batch)):
            x = torch.randn(min(batch, ROWS - start), DIM)
            states = odeint(field.velocity, x, grid, method="euler")
            np.save(folder / f"{k}.npy", states.numpy())
    return time.perf_counter() - began


def measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        velocity = publish(folder)
        contenders: dict[str, Callable[[int], float]] = {"limit": lambda turn: bare(velocity)}
        if importlib.util.find_spec("torchdiffeq"):
            contenders["torchdiffeq"] = lambda turn: by_torchdiffeq(velocity, folder)
        took: dict[str, list[float]] = {name: [] for name in (*contenders, "charflow")}
        began = time.perf_counter()
        with ray_session(ComputeSpec(cpus=WORKERS)) as executor:
            started = time.perf_counter() - began
            warming = ours(executor, request_of(folder, name="small", rows=4 * SUB_BATCH))
            contenders["charflow"] = lambda turn: ours(executor, request_of(folder, name=f"{turn}", rows=ROWS))
            for turn in range(ROUNDS):
                for name, work in contenders.items():
                    took[name].append(work(turn))
                    sys.stderr.write(f"round {turn + 1} of {ROUNDS}: {name} {took[name][-1]:.1f} s\n")
            took["limit"].append(bare(velocity))
    seconds = {name: statistics.fmean(values) for name, values in took.items()}
    results = {name: round(ROWS / value) for name, value in seconds.items()}
    ratios = {f"times_{name}": round(seconds[name] / seconds["charflow"], 3) for name in seconds if name != "charflow"}
    spread = {name: round(max(values) / min(values), 3) for name, values in took.items()}
    detail = ratios | {
        "spread": spread,
        "ray_seconds": round(started, 1),
        "workers_seconds": round(warming, 1),
        "rows": ROWS,
        "steps": STEPS,
        "dim": DIM,
        "bytes": ROWS * (STEPS + 1) * DIM * 4,
        "workers": WORKERS,
        "chunks": chunks.measure(),
    }
    return {"bench": "integrate", "unit": "trajectories/s", "results": results, "detail": detail}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(json.dumps(measure(), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
