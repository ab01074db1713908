"""STEP train_generator: stored characteristics become a two-time map g(t, s, x) (arXiv 2405.05512, section 2.4)."""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from storage.data import DataStore
from storage.journal import read_journal
from storage.models import read_model
from storage.stream import PairBatch, PairStream, Place, StreamSpec
from storage.trajectories import TrajectoryStore
from tasks.fit_velocity import build_stored_denoiser
from tasks.networks.build import build_generator, warm_start
from tasks.networks.generator import Generator
from tasks.specs import GeneratorSpec, NetworkSpec, Progress, TrainingPlace
from tasks.training.checkpoint import weights_from_bytes
from tasks.training.ddp import run_distributed
from tasks.training.fit import fit, is_published, resume
from tasks.training.group import Group
from tasks.transport.losses import characteristic_fitting_loss, semigroup_loss
from tasks.transport.noise import TRAINING

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GeneratorRequest:
    """Everything that determines a generator, and where it goes."""

    generator: GeneratorSpec
    count: int  # trajectories that are used
    seed: int
    data: Path  # the ingested dataset
    velocity: Path  # folder of the velocity, for a warm start
    store: Path  # of the trajectories
    place: TrainingPlace


@dataclass(frozen=True, kw_only=True)
class GeneratorSummary:
    """What was fitted."""

    digest: str  # of specification and weights
    loss: float  # mean over the last log interval, a dimension
    wait_share: float  # of the time, spent waiting for pairs
    batch_size: int  # global
    startup_seconds: float  # of the workers, not spent training


def train_generator(request: GeneratorRequest, *, progress: Progress) -> GeneratorSummary:
    """Fit the generator and publish it; a finished one under the same key is found and kept."""
    startup = 0.0
    if not is_published(request.place):
        startup = run_distributed(
            train_characteristics,
            request,
            workers=request.generator.workers,
            place=request.place,
            steps=request.generator.steps,
            progress=progress,
        )
    last = read_journal(request.place.journal)[-1]
    return GeneratorSummary(
        digest=read_model(request.place.folder).digest,
        loss=last["loss"],
        wait_share=last["wait_share"],
        batch_size=request.generator.batch_size,
        startup_seconds=startup,
    )


def train_characteristics(request: GeneratorRequest, group: Group) -> None:
    """Train this worker's replica of the generator on its part of every global batch of pairs."""
    store = TrajectoryStore.open(request.store)
    data_std = DataStore(request.data).std
    spec = request.generator.optimiser()
    generator = build_generator(
        request.generator.network,
        store.plan.dim,
        seed=request.seed,
        interpolant=store.plan.interpolant,
        data_std=data_std,
    )
    if request.generator.warm_start:
        warm_start(generator, build_stored_denoiser(read_model(request.velocity)))
    state = resume(generator, spec, request.place)
    stream = PairStream(
        store,
        StreamSpec(
            rows=request.count,
            batch_size=spec.batch_size,
            seed=request.seed,
            visits=request.generator.pairs_per_row,
            full_span_share=request.generator.full_span_share,
        ),
        rank=group.rank,
        world=group.world,
        place=Place(**state.place),
    )
    size = float(torch.Size(store.plan.dim).numel())

    def loss(batch: TorchPairs) -> Tensor:
        rows = characteristic_fitting_loss(generator, t=batch.t, s=batch.s, x_t=batch.x_t, x_s=batch.x_s)
        if request.generator.semigroup > 0:
            share = _between(request.seed, step=state.step, rank=group.rank, rows=len(rows))
            r = batch.t + share * (batch.s - batch.t)
            penalty = semigroup_loss(generator, t=batch.t, r=r, s=batch.s, x_t=batch.x_t, x_s=batch.x_s)
            rows = rows + request.generator.semigroup * penalty
        return rows.mean() / size

    model_spec = {
        "kind": "generator",
        "network": asdict(request.generator.network),
        "dim": list(store.plan.dim),
        "interpolant": store.plan.interpolant,
        "data_std": data_std,
        "times": list(store.plan.times),
    }
    fit(
        state,
        _as_torch(stream),
        loss,
        spec,
        stream_place=lambda: asdict(stream.place),
        place=request.place,
        model_spec=model_spec,
        group=group,
    )


@dataclass(frozen=True, kw_only=True)
class TorchPairs:
    """A :class:`~storage.stream.PairBatch` as tensors of the network's type."""

    x_t: Tensor  # [batch, *dim]
    x_s: Tensor  # [batch, *dim]
    t: Tensor  # [batch]
    s: Tensor  # [batch]


@dataclass(frozen=True, kw_only=True)
class StoredGenerator:
    """A published generator and the times that it was fitted on."""

    generator: Generator
    times: tuple[float, ...]
    dim: tuple[int, ...]
    digest: str


def load_generator(folder: Path) -> StoredGenerator:
    """Read a published generator for use in standardised units, without gradients."""
    model = read_model(folder)
    spec = model.spec
    generator = build_generator(
        NetworkSpec(**spec["network"]),
        tuple(spec["dim"]),
        seed=0,
        interpolant=spec["interpolant"],
        data_std=spec["data_std"],
    )
    generator.load_state_dict(weights_from_bytes(model.weights))
    return StoredGenerator(
        generator=generator.requires_grad_(False).eval(),
        times=tuple(spec["times"]),
        dim=tuple(spec["dim"]),
        digest=model.digest,
    )


def _between(seed: int, *, step: int, rank: int, rows: int) -> Tensor:
    """Give where each row's intermediate time lies between its two, ``[rows]`` uniform, a function of the arguments."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, TRAINING], np.uint64), counter=[0, step, rank, 1]))
    return torch.from_numpy(rng.random(rows, dtype=np.float32))


def _as_torch(stream: PairStream) -> Iterator[TorchPairs]:
    for batch in stream:
        yield _convert(batch)


def _convert(batch: PairBatch) -> TorchPairs:
    x_t, x_s, t, s = (torch.from_numpy(a).to(torch.float32) for a in (batch.x_t, batch.x_s, batch.t, batch.s))
    return TorchPairs(x_t=x_t, x_s=x_s, t=t, s=s)
