"""Velocity training by two Ray Train workers of one thread, against one process of two threads that does nothing else.

Same network, batch, steps and optimiser: a U-Net on images of 28 x 28 and, as a harder case, a perceptron on vectors of
64. The limit draws its one batch before it begins and writes nothing; charflow reads shards, draws noise, averages
gradients over processes, and writes a journal and ten checkpoints. Both are timed over their steps alone: what Ray
takes to start and stop workers is told apart. They take turns, limit first and last, and each is its mean.

    charflow bench velocity
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from storage.data import DataStore
from tasks.executor import ray_session
from tasks.facts import TrainingPlace
from tasks.fit_velocity import VelocityRequest, train_velocity
from tasks.ingest import ingest
from tasks.networks.build import build_denoiser
from tasks.specs import ComputeSpec, DatasetSpec, InterpolantSpec, NetworkSpec, VelocitySpec
from tasks.training.group import alone
from tasks.training.loader import Draw, matching_batches, matching_loss
from tasks.transport.interpolant import Interpolant
from tests.benchmarks._training import WORKERS, bare_loop, compare, our_workers, report

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


def request_of(folder: Path, network: str, *, turn: int = 0) -> VelocityRequest:
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


def bare(request: VelocityRequest) -> float:
    """Give the seconds of the bare loop over one batch."""
    store, spec = DataStore(request.data), request.velocity.optimiser()
    kind = request.interpolant.kind
    network = build_denoiser(request.velocity.network, store.dim, seed=0, interpolant=kind, data_std=store.std)
    draw = Draw(seed=0, batch_size=spec.batch_size, stop=request.stop, label_dropout=None)
    batch = next(matching_batches(store, draw, step=0, group=alone()))
    loss = matching_loss(network, Interpolant(kind), data_std=store.std)
    return bare_loop(network, lambda: loss(batch), spec)


def measure_network(network: str) -> dict[str, object]:
    """Give the ratio of wall times and what it is made of."""
    spec, dim = VELOCITIES[network], DIMS[network]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, network)
        found = compare(
            network,
            spec.optimiser(),
            bare=lambda: bare(request_of(folder, network)),
            ours=lambda turn: our_workers(train_velocity, request_of(folder, network, turn=turn), steps=spec.steps),
        )
    built = build_denoiser(spec.network, dim, seed=0, interpolant="linear", data_std=1.0)
    weights = sum(parameter.numel() for parameter in built.parameters())
    return found | {"weights": weights, "states": "x".join(map(str, dim))}


def measure() -> dict[str, object]:
    with ray_session(ComputeSpec(cpus=WORKERS)):
        return report("velocity", {network: measure_network(network) for network in VELOCITIES})


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(json.dumps(measure(), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
