"""STEP train_generator: stored characteristics become a two-time map g(t, s, x) (arXiv 2405.05512, section 2.4)."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storage.admissions import Growth
from storage.data import DataStore
from storage.errors import InputError, StreamConflictError
from storage.journal import read_journal
from storage.models import read_model
from storage.paths import Location
from storage.specs import TrajectoryPlan
from storage.stream import PairBatch, PairStream, Place, StreamSpec
from storage.trajectories import TrajectoryStore
from tasks.facts import Progress, TrainingPlace
from tasks.fit_velocity import build_stored_denoiser
from tasks.networks.build import build_generator, rebuild, warm_start
from tasks.networks.generator import Generator
from tasks.networks.spectral import settle_norms
from tasks.specs import Demand, GeneratorSpec
from tasks.training.checkpoint import weights_from_bytes
from tasks.training.ddp import Outcome, train_on_cluster
from tasks.training.device import CPU, describe, place, place_training
from tasks.training.failure import Numbering
from tasks.training.features import load_features
from tasks.training.fit import fit, is_published, require_generator, resume
from tasks.training.fitting import TorchPairs, fitting_loss
from tasks.training.group import Group
from tasks.training.loader import Draw, matching_batches, require_divisible, stream_grid
from tasks.transport.noise import TRAINING

logger = logging.getLogger(__name__)

_ON_PARTS = 0.5  # share of an overlapping training, at most, that sees a part of the trajectories


@dataclass(frozen=True, kw_only=True)
class GeneratorRequest:
    """Everything that determines a generator, and where it goes."""

    generator: GeneratorSpec
    count: int  # trajectories that are used
    seed: int
    data: Location  # the ingested dataset
    velocity: Location  # folder of the velocity, for a warm start
    store: Location  # of the trajectories
    place: TrainingPlace
    device: str = "cpu"  # auto, cpu or cuda
    demand: Demand = field(default_factory=partial(Demand, step="train_generator"))  # of each training worker


@dataclass(frozen=True, kw_only=True)
class GeneratorSummary:
    """What was fitted."""

    digest: str  # of specification and weights
    loss: float  # mean over the last log interval, a dimension
    wait_share: float  # of the time, spent waiting for pairs
    batch_size: int  # global
    startup_seconds: float  # of the workers, not spent training
    computed_on: str  # device and precision, as "cpu, float32"
    restarts: int = 0  # of the workers from a checkpoint, after one was lost


def train_generator(request: GeneratorRequest, *, progress: Progress) -> GeneratorSummary:
    """Fit the generator and publish it; a finished one under the same key is found and kept.

    Raises:
        InputError: a GPU was asked for and there is none, the network or the features cannot take the data's shape, or
            data, velocity and trajectories are not of one another.
    """
    outcome = Outcome()
    if not is_published(request.place):
        _require_fitting(request)
        outcome = train_on_cluster(
            train_characteristics,
            request,
            section="generator",
            spec=request.generator,
            parts=_parts(request),
            place=request.place,
            device=request.device,
            demand=request.demand,
            progress=progress,
        )
    last = read_journal(request.place.journal)[-1]
    return GeneratorSummary(
        digest=read_model(request.place.folder).digest,
        loss=last["loss"],
        wait_share=last["wait_share"],
        batch_size=request.generator.batch_size,
        startup_seconds=outcome.startup_seconds,
        computed_on=describe(last),
        restarts=outcome.restarts,
    )


def require_importable(features: str) -> None:
    """Refuse features of that name where they cannot be imported; whether they suit the data turns out later.

    Raises:
        InputError: they cannot.
    """
    load_features(features)


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
        classes=len(store.plan.class_shares),
        form=request.generator.form,
    )
    if request.generator.warm_start:
        warm_start(generator, build_stored_denoiser(read_model(request.velocity)))
    placement = place_training(request.generator, group.device)
    state = resume(generator, spec, request.place, placement=placement)
    stream = _stream(store, request, group, place=state.place)
    model_spec = {
        "kind": "generator",
        "form": request.generator.form,
        "network": asdict(request.generator.network),
        "dim": list(store.plan.dim),
        "interpolant": store.plan.interpolant,
        "data_std": data_std,
        "times": list(store.plan.times),
        "classes": len(store.plan.class_shares),
        "class_shares": list(store.plan.class_shares),
        "unlabelled_share": store.plan.unlabelled_share,
    }
    name = request.generator.features
    batches = _as_torch(stream, request, step=state.step, rank=group.rank)
    if request.generator.diagonal > 0:
        batches = _with_diagonal(batches, request, store, step=state.step, group=group)
    fit(
        state,
        batches,
        fitting_loss(generator, request.generator, features=load_features(name, device=group.device) if name else None),
        spec,
        stream_place=lambda: vars(stream.place),
        numbering=Numbering(what="trajectories", at=lambda _, at: stream.rows_at(Place(**at))),
        place=request.place,
        model_spec=model_spec,
        group=group,
        seed=request.seed,
        dropout=request.generator.network.dropout,
        placement=placement,
        is_static=not name and not request.generator.network.spectral,
    )


@dataclass(frozen=True, kw_only=True)
class StoredGenerator:
    """A published generator, and what it was fitted on."""

    generator: Generator
    times: tuple[float, ...]
    dim: tuple[int, ...]
    digest: str
    classes: int = 0  # 0: an unconditional one
    class_shares: tuple[float, ...] = ()  # of its trajectories, in order of class
    unlabelled_share: float = 0.0  # of its trajectories, on which it learnt the unconditional map
    device: torch.device = CPU  # where it is


def load_generator(folder: Location, *, device: torch.device = CPU) -> StoredGenerator:
    """Read a published generator for use in standardised units, without gradients, on a device, in float32."""
    model = read_model(folder)
    spec = model.spec
    # one that was published before there were forms is exponential
    build = partial(build_generator, form=spec.get("form", "exponential"))
    generator = rebuild(build, spec, weights_from_bytes(model.weights))
    settle_norms(generator)
    place(device, precision="float32", is_compiled=False).take(generator)
    return StoredGenerator(
        generator=generator.requires_grad_(False),
        times=tuple(spec["times"]),
        dim=tuple(spec["dim"]),
        digest=model.digest,
        classes=spec.get("classes", 0),  # one that was published before there were classes says nothing of them
        class_shares=tuple(spec.get("class_shares", ())),
        unlabelled_share=spec.get("unlabelled_share", 0.0),
        device=device,
    )


def _parts(request: GeneratorRequest) -> int:
    """Give the equal parts that a global batch can be cut into: its rows, or streams where data are drawn, too."""
    size = request.generator.batch_size
    return (
        stream_grid(DataStore(request.data).shards, batch_size=size).count if request.generator.diagonal > 0 else size
    )


def _require_fitting(request: GeneratorRequest) -> None:
    """Refuse here what would fail in the workers.

    Raises:
        InputError: as :func:`train_generator` says.
    """
    spec, data, plan = request.generator, DataStore(request.data), TrajectoryStore.open(request.store).plan
    if plan.dim != data.dim:
        raise InputError(
            f"{request.store} holds states of shape {list(plan.dim)}, and the data in {request.data} have shape "
            f"{list(data.dim)}"
        )
    require_generator(spec, data.dim)
    if spec.diagonal > 0:
        require_divisible(data, batch_size=spec.batch_size, workers=spec.workers, section="generator")
    if spec.warm_start:
        _require_teacher(read_model(request.velocity).spec, plan, velocity=request.velocity)


def _require_teacher(spec: Mapping[str, Any], plan: TrajectoryPlan, *, velocity: Location) -> None:
    facts = {
        "kind": ("network", spec["kind"]),
        "dim": (list(plan.dim), spec.get("dim")),
        "interpolant": (plan.interpolant, spec["interpolant"]),
        "classes": (len(plan.class_shares), spec.get("classes", 0)),
    }
    for name, (needed, found) in facts.items():
        if found != needed:
            raise InputError(
                f"generator.warm_start needs a velocity with {name} = {needed}, as its trajectories, and that in "
                f"{velocity} has {found}"
            )


def _with_diagonal(
    batches: Iterator[TorchPairs], request: GeneratorRequest, store: TrajectoryStore, *, step: int, group: Group
) -> Iterator[TorchPairs]:
    """Add as many rows of the data to each batch, labelled as often as trajectories are; a function of the step."""
    draw = Draw(
        seed=request.seed,
        batch_size=request.generator.batch_size,
        stop=store.plan.times[-1],
        label_dropout=store.plan.unlabelled_share if store.plan.is_conditional else None,
    )
    rows = matching_batches(DataStore(request.data), draw, step=step, group=group)
    return (replace(pairs, diagonal=next(rows)) for pairs in batches)


def _between(seed: int, *, step: int, rank: int, rows: int) -> Tensor:
    """Give where each row's intermediate time lies between its two, ``[rows]`` uniform, a function of the arguments."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, TRAINING], np.uint64), counter=[0, step, rank, 1]))
    return torch.from_numpy(rng.random(rows, dtype=np.float32))


def stream_spec(request: GeneratorRequest) -> StreamSpec:
    """Give which pairs a training asks for, over all workers."""
    return StreamSpec(
        rows=request.count,
        batch_size=request.generator.batch_size,
        seed=request.seed,
        visits=request.generator.pairs_per_row,
        full_span_share=request.generator.full_span_share,
    )


def _stream(store: TrajectoryStore, request: GeneratorRequest, group: Group, *, place: Mapping[str, Any]) -> PairStream:
    """Give this worker's pairs from a checkpoint's place on, or from the beginning where there is none."""
    until = int(_ON_PARTS * request.generator.steps * request.generator.batch_size)
    growth = Growth(folder=request.place.admissions, until=until) if request.generator.overlap else None
    begin = Place(**place) if place else None
    try:
        return PairStream(store, stream_spec(request), rank=group.rank, world=group.world, place=begin, growth=growth)
    except StreamConflictError as error:
        raise StreamConflictError(
            f"{error}; restore what has changed, or delete {request.place.checkpoints} to train anew"
        ) from error


def _as_torch(stream: PairStream, request: GeneratorRequest, *, step: int, rank: int) -> Iterator[TorchPairs]:
    for now, batch in enumerate(stream, start=step):
        pairs = as_tensors(batch)
        if request.generator.semigroup > 0:
            share = _between(request.seed, step=now, rank=rank, rows=len(pairs.t))
            pairs = replace(pairs, r=pairs.t + share * (pairs.s - pairs.t))
        yield pairs


def as_tensors(batch: PairBatch) -> TorchPairs:
    """Give a batch of the stream as tensors of the network's type."""
    x_t, x_s, t, s = (  # converted by numpy, which is quicker where numbers are few
        torch.from_numpy(a.astype(np.float32, copy=False)) for a in (batch.x_t, batch.x_s, batch.t, batch.s)
    )
    label = None if batch.label is None else torch.from_numpy(batch.label)
    return TorchPairs(x_t=x_t, x_s=x_s, t=t, s=s, label=label)
