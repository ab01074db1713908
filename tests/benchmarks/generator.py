"""Generator training by two Ray Train workers of one thread, against one process of two threads that does nothing else.

The network, states and batches of the preset digits (a perceptron, images of 8 x 8), and for MNIST (28 x 28) the
preset's U-Net at half its width and batch, on trajectories of a velocity that was never trained. The limit takes its
one batch of pairs before it begins and writes nothing; charflow streams pairs from the store, checks it, averages
gradients over processes, and writes a journal and ten checkpoints. Both are timed over their steps alone: what Ray
takes to start and stop workers is told apart. They take turns, limit first and last, and each is its mean.

    charflow bench generator
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from storage.data import DataStore
from storage.models import publish_model
from storage.stream import PairStream
from storage.trajectories import TrajectoryStore
from tasks.executor import SerialExecutor, ray_session
from tasks.facts import TrainingPlace
from tasks.ingest import ingest
from tasks.integrate import IntegrateRequest, integrate
from tasks.networks.build import build_denoiser, build_generator
from tasks.specs import ComputeSpec, DatasetSpec, GeneratorSpec, InterpolantSpec, NetworkSpec, TrajectoriesSpec
from tasks.train_generator import GeneratorRequest, as_tensors, stream_spec, train_characteristics
from tasks.training.checkpoint import weights_to_bytes
from tasks.training.fitting import fitting_loss
from tests.benchmarks._training import WORKERS, bare_loop, compare, our_workers, report

DIMS: dict[str, tuple[int, ...]] = {"mlp": (1, 8, 8), "unet": (1, 28, 28)}
ROWS = {"mlp": 20_000, "unet": 2_000}  # trajectories of 33 states: 169 and 207 MB
SIMULATED_BY = NetworkSpec(width=16, depth=1)
GENERATORS = {
    "mlp": GeneratorSpec(network=NetworkSpec(width=256, depth=4), steps=1600, batch_size=1024, workers=WORKERS),
    "unet": GeneratorSpec(
        network=NetworkSpec(kind="unet", channels=32, multipliers=(1, 2, 2), attention=(7,)),
        steps=20,
        batch_size=128,
        workers=WORKERS,
    ),
}


def request_of(folder: Path, network: str, *, turn: int = 0) -> GeneratorRequest:
    return GeneratorRequest(
        generator=GENERATORS[network],
        count=ROWS[network],
        seed=0,
        data=folder / "data.zarr",
        velocity=folder / "velocity",
        store=folder / "trajectories.zarr",
        place=TrainingPlace(folder=folder / f"generator-{turn}", key="bench"),
    )


def prepare(folder: Path, network: str) -> None:
    """Make data, a velocity and its trajectories."""
    dim = DIMS[network]
    np.savez(folder / "images.npz", x=np.random.default_rng(0).standard_normal((500, *dim), dtype=np.float32))
    ingest(DatasetSpec(kind="npz", path=str(folder / "images.npz")), seed=0, path=folder / "data.zarr")
    denoiser = build_denoiser(SIMULATED_BY, dim, seed=0, interpolant="linear", data_std=1.0)
    spec = {
        "kind": "network",
        "network": asdict(SIMULATED_BY),
        "dim": list(dim),
        "interpolant": "linear",
        "data_std": 1.0,
        "key": "bench",
    }
    publish_model(folder / "velocity", spec=spec, weights=weights_to_bytes(denoiser.state_dict()))
    request = IntegrateRequest(
        trajectories=TrajectoriesSpec(count=ROWS[network]),
        interpolant=InterpolantSpec(),
        seed=0,
        dim=dim,
        data=folder / "data.zarr",
        velocity=folder / "velocity",
        store=folder / "trajectories.zarr",
    )
    integrate(request, executor=SerialExecutor(), progress=lambda *_: None)


def bare(request: GeneratorRequest) -> float:
    """Give the seconds of the bare loop over one batch."""
    spec, data = request.generator, DataStore(request.data)
    network = build_generator(spec.network, data.dim, seed=0, interpolant="linear", data_std=data.std)
    stream = PairStream(TrajectoryStore.open(request.store), stream_spec(request), rank=0, world=1)
    batch = as_tensors(next(iter(stream)))
    loss = fitting_loss(network, spec)
    return bare_loop(network, lambda: loss(batch), spec.optimiser())


def measure_network(network: str) -> dict[str, object]:
    """Give the ratio of wall times and what it is made of."""
    spec, dim = GENERATORS[network], DIMS[network]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, network)
        found = compare(
            network,
            spec.optimiser(),
            bare=lambda: bare(request_of(folder, network)),
            ours=lambda turn: our_workers(
                train_characteristics, request_of(folder, network, turn=turn), steps=spec.steps
            ),
        )
    built = build_generator(spec.network, dim, seed=0, interpolant="linear", data_std=1.0)
    weights = sum(parameter.numel() for parameter in built.parameters())
    return found | {"weights": weights, "states": "x".join(map(str, dim))}


def measure() -> dict[str, object]:
    with ray_session(ComputeSpec(cpus=WORKERS)):
        return report("generator", {network: measure_network(network) for network in GENERATORS})


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(json.dumps(measure(), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
