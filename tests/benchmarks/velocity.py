"""Velocity training by two Ray Train workers of one thread, against one process of two threads that does nothing else.

Same network, batch, steps and optimiser: a U-Net on images of 28 x 28 and, as a harder case, a perceptron on vectors of
64. The limit draws its one batch before it begins and writes nothing; charflow reads shards, draws noise, averages
gradients over processes, and writes a journal and ten checkpoints. Both are timed over their steps alone: what Ray
takes to start and stop workers is told apart. They take turns, limit first and last, and each is its mean.

    charflow bench velocity
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from storage.data import DataStore
from storage.journal import read_journal
from tasks.executor import ray_session
from tasks.fit_velocity import VelocityRequest, train_velocity
from tasks.ingest import ingest
from tasks.networks.build import build_denoiser
from tasks.networks.ema import MovingAverage
from tasks.specs import ComputeSpec, DatasetSpec, InterpolantSpec, NetworkSpec, TrainingPlace, VelocitySpec
from tasks.training.ddp import run_distributed
from tasks.training.group import alone
from tasks.training.loader import Draw, matching_batches, matching_loss
from tasks.transport.interpolant import Interpolant

WORKERS = 2
ROUNDS = 2
DATASETS = {
    "mlp": DatasetSpec(kind="gaussian", dim=64, count=50_000),
    "unet": DatasetSpec(kind="npz", path="images.npz"),  # 4,000 images of 1 x 28 x 28, drawn here
}
DIMS: dict[str, tuple[int, ...]] = {"mlp": (64,), "unet": (1, 28, 28)}
VELOCITIES = {
    "mlp": VelocitySpec(network=NetworkSpec(width=512, depth=4), steps=400, batch_size=1024, workers=WORKERS),
    "unet": VelocitySpec(
        network=NetworkSpec(kind="unet", channels=32, multipliers=(1, 2, 2), blocks=2),
        steps=20,
        batch_size=128,
        workers=WORKERS,
    ),
}


def request_of(folder: Path, network: str, *, turn: int) -> VelocityRequest:
    return VelocityRequest(
        velocity=VELOCITIES[network],
        interpolant=InterpolantSpec(),
        dataset=DATASETS[network],
        stop=0.999,
        seed=0,
        data=folder / "data.zarr",
        place=TrainingPlace(folder=folder / f"velocity-{turn}", key="bench"),
    )


def prepare(folder: Path, network: str) -> None:
    dataset = DATASETS[network]
    if dataset.kind == "npz":
        path = folder / dataset.path
        np.savez(path, x=np.random.default_rng(0).standard_normal((4000, *DIMS[network]), dtype=np.float32))
        dataset = DatasetSpec(kind="npz", path=str(path))
    ingest(dataset, seed=0, path=folder / "data.zarr")


def ideal(request: VelocityRequest) -> float:
    """Give the seconds of the bare loop: a ready batch, the loss, its gradient, clipping, a step, the average."""
    torch.set_num_threads(WORKERS)
    store, spec = DataStore(request.data), request.velocity.optimiser()
    network = build_denoiser(
        request.velocity.network, store.dim, seed=0, interpolant=request.interpolant.kind, data_std=store.std
    )
    draw = Draw(seed=0, batch_size=spec.batch_size, stop=request.stop, label_dropout=None)
    batch = next(matching_batches(store, draw, step=0, group=alone()))
    loss = matching_loss(network, Interpolant(request.interpolant.kind), data_std=store.std)
    optimiser = torch.optim.AdamW(network.parameters(), lr=spec.learning_rate, fused=True)
    average = MovingAverage(network, decay=spec.ema)
    began = time.perf_counter()
    for step in range(spec.steps):
        optimiser.zero_grad(set_to_none=True)
        loss(batch).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), spec.clip)
        optimiser.step()
        average.update(network, step=step)
    return time.perf_counter() - began


def ours(request: VelocityRequest) -> dict[str, float]:
    """Give the seconds of the steps, those of starting and stopping, and the share spent waiting for batches."""
    startup = run_distributed(
        train_velocity,
        request,
        workers=WORKERS,
        place=request.place,
        steps=request.velocity.steps,
        progress=lambda *_: None,
    )
    records = read_journal(request.place.journal)
    taken = [now["step"] - before for now, before in zip(records, [0.0, *(r["step"] for r in records)], strict=False)]
    waited = sum(
        record["wait_share"] * n / record["steps_per_second"] for record, n in zip(records, taken, strict=True)
    )
    elapsed = records[-1]["elapsed"]
    return {"seconds": elapsed, "startup": startup, "wait_share": waited / elapsed}


def measure_network(network: str) -> dict[str, object]:
    """Give the ratio of wall times and what it is made of."""
    bare: list[float] = []
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, network)
        for turn in range(ROUNDS):
            bare.append(ideal(request_of(folder, network, turn=turn)))
            found.append(ours(request_of(folder, network, turn=turn)))
            sys.stderr.write(f"{network}, round {turn + 1} of {ROUNDS}: {found[-1]}, limit {bare[-1]:.2f} s\n")
        bare.append(ideal(request_of(folder, network, turn=ROUNDS)))
    spec, dim = VELOCITIES[network], DIMS[network]
    built = build_denoiser(spec.network, dim, seed=0, interpolant="linear", data_std=1.0)
    taken = [each["seconds"] for each in found]
    return {
        "limit_steps_per_second": round(spec.steps / statistics.fmean(bare), 3),
        "charflow_steps_per_second": round(spec.steps / statistics.fmean(taken), 3),
        "wall_ratio": round(statistics.fmean(taken) / statistics.fmean(bare), 3),
        "wait_share": round(max(each["wait_share"] for each in found), 4),
        "startup_seconds": round(statistics.fmean(each["startup"] for each in found), 1),
        "spread_limit": round(max(bare) / min(bare), 3),
        "spread_charflow": round(max(taken) / min(taken), 3),
        "weights": sum(parameter.numel() for parameter in built.parameters()),
        "states": "x".join(map(str, dim)),
        "batch_size": spec.batch_size,
        "steps": spec.steps,
    }


def measure() -> dict[str, object]:
    with ray_session(ComputeSpec(cpus=WORKERS)):
        found = {network: measure_network(network) for network in VELOCITIES}
    results = {
        f"{who}{suffix}": found[network][f"{who}_steps_per_second"]
        for network, suffix in (("unet", ""), ("mlp", "_mlp"))
        for who in ("charflow", "limit")
    }
    return {"bench": "velocity", "unit": "steps/s", "results": results, "detail": found | {"workers": WORKERS}}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(json.dumps(measure(), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
