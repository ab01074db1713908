"""STEP fit_velocity: dataset shards become an estimate of the velocity field (arXiv 2405.05512, section 2.3)."""

import logging
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from storage.data import DataStore
from storage.errors import InputError
from storage.journal import read_journal
from storage.models import StoredModel, publish_model, read_model
from storage.paths import Location
from tasks.executor import Executor, SerialExecutor
from tasks.facts import Progress, TrainingPlace
from tasks.fit_kernel import fit_kernel, kernel_field
from tasks.networks.build import build_denoiser, rebuild
from tasks.networks.denoiser import Denoiser
from tasks.networks.spectral import settle_norms
from tasks.specs import ORACLE_KINDS, DatasetSpec, Demand, GeneratorSpec, InterpolantSpec, TargetSpec, VelocitySpec
from tasks.training.checkpoint import weights_from_bytes
from tasks.training.ddp import Outcome, train_on_cluster
from tasks.training.device import describe, place_training
from tasks.training.failure import Numbering
from tasks.training.fit import fit, is_published, require_generator, require_network, resume
from tasks.training.group import Group
from tasks.training.loader import Draw, matching_batches, matching_loss, matching_rows, require_divisible, stream_grid
from tasks.transport.field import VelocityField
from tasks.transport.interpolant import Interpolant
from tasks.transport.synthetic import oracle_target
from tasks.transport.targets import OracleField

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VelocityRequest:
    """Everything that determines a velocity estimate, and where it goes."""

    velocity: VelocitySpec
    interpolant: InterpolantSpec
    dataset: DatasetSpec  # an oracle's target
    stop: float  # T: times of the regression are uniform on [0, T]
    seed: int
    data: Location  # the ingested store
    place: TrainingPlace
    device: str = "cpu"  # auto, cpu or cuda
    demand: Demand = field(default_factory=partial(Demand, step="fit_velocity"))  # of each training worker
    generator: GeneratorSpec | None = None  # to be trained on its trajectories; refused here, not hours later


@dataclass(frozen=True, kw_only=True)
class VelocitySummary:
    """What was estimated."""

    kind: str
    digest: str  # of specification and weights
    loss: float | None  # mean over the last log interval, a dimension; None for an oracle
    batch_size: int | None  # global; None for an oracle
    startup_seconds: float  # of the workers, not spent training
    computed_on: str | None  # device and precision, as "cpu, float32"; None for an oracle
    restarts: int = 0  # of a training's workers from a checkpoint, after one was lost


def fit_velocity(request: VelocityRequest, *, progress: Progress, executor: Executor | None = None) -> VelocitySummary:
    """Estimate the velocity and publish it; a finished estimate under the same key is found and kept.

    Args:
        request: what is asked for.
        progress: told of a training's steps.
        executor: for the sums over shards from which a kernel's bandwidth is chosen; None: they are taken here.

    Raises:
        InputError: an oracle was asked for a target that has none, labels of a dataset that has none, a GPU where
            there is none, a network that cannot take the data (the generator's as well, and its features), or shards,
            batch and workers that do not fit.
    """
    outcome = Outcome()
    if not is_published(request.place):
        if request.generator is not None:
            require_generator(request.generator, DataStore(request.data).dim)
        match request.velocity.kind:
            case "oracle":
                _publish_oracle(request)
            case "kernel":
                fit_kernel(
                    request.velocity,
                    request.interpolant,
                    data=request.data,
                    seed=request.seed,
                    place=request.place,
                    classes=_class_count(request, DataStore(request.data)),
                    executor=executor or SerialExecutor(),
                )
            case "network":
                outcome = _train(request, progress=progress)
    model = read_model(request.place.folder)
    losses = read_journal(request.place.journal)
    return VelocitySummary(
        kind=model.spec["kind"],
        digest=model.digest,
        loss=losses[-1]["loss"] if losses else None,
        batch_size=request.velocity.batch_size if model.spec["kind"] == "network" else None,
        startup_seconds=outcome.startup_seconds,
        computed_on=describe(losses[-1]) if losses else None,
        restarts=outcome.restarts,
    )


def _train(request: VelocityRequest, *, progress: Progress) -> Outcome:
    """Train on the cluster, after refusing here what would fail there."""
    spec, store = request.velocity, DataStore(request.data)
    require_divisible(store, batch_size=spec.batch_size, workers=spec.workers)
    _class_count(request, store)
    require_network("velocity", spec.network, store.dim)
    return train_on_cluster(
        train_velocity,
        request,
        section="velocity",
        spec=spec,
        parts=stream_grid(store.shards, batch_size=spec.batch_size).count,
        place=request.place,
        device=request.device,
        demand=request.demand,
        progress=progress,
    )


def train_velocity(request: VelocityRequest, group: Group) -> None:
    """Train this worker's replica of the velocity network on its own shards."""
    store = DataStore(request.data)
    spec, network = request.velocity.optimiser(), request.velocity.network
    kind, classes = request.interpolant.kind, _class_count(request, store)
    denoiser = build_denoiser(
        network, store.dim, seed=request.seed, interpolant=kind, data_std=store.std, classes=classes
    )
    placement = place_training(request.velocity, group.device)
    state = resume(denoiser, spec, request.place, placement=placement)
    draw = Draw(
        seed=request.seed,
        batch_size=spec.batch_size,
        stop=request.stop,
        label_dropout=request.velocity.label_dropout if classes else None,
    )
    model_spec = {
        "kind": "network",
        "network": asdict(network),
        "dim": list(store.dim),
        "interpolant": kind,
        "data_std": store.std,
        "classes": classes,
    }
    fit(
        state,
        matching_batches(store, draw, step=state.step, group=group),
        matching_loss(denoiser, Interpolant(kind), data_std=store.std),
        spec,
        stream_place=dict,
        numbering=Numbering(
            what="data rows", at=lambda behind, _: matching_rows(store, draw, step=behind, group=group)
        ),
        place=request.place,
        model_spec=model_spec,
        group=group,
        seed=request.seed,
        dropout=network.dropout,
        placement=placement,
        is_static=not network.spectral,
    )


def _class_count(request: VelocityRequest, store: DataStore) -> int:
    """Give the number of classes that the velocity is conditioned on; 0 for none."""
    if request.velocity.conditional and not store.classes:
        raise InputError(
            f"velocity.conditional = true needs labels, and dataset.kind = {request.dataset.kind} has none here"
        )
    return len(store.classes) if request.velocity.conditional else 0


def load_velocity(folder: Location) -> VelocityField:
    """Read a published velocity for use in standardised units, without gradients."""
    model = read_model(folder)
    match model.spec["kind"]:
        case "oracle":
            return _build_oracle(model.spec)
        case "kernel":
            return kernel_field(model, folder)
        case "network":
            denoiser = build_stored_denoiser(model).requires_grad_(False)
            settle_norms(denoiser)
            return denoiser
    raise InputError(f"velocity.kind must be oracle, kernel or network, {folder} has {model.spec['kind']!r}")


def build_stored_denoiser(model: StoredModel) -> Denoiser:
    """Give the velocity network that a model's folder holds."""
    return rebuild(build_denoiser, model.spec, weights_from_bytes(model.weights))


def _publish_oracle(request: VelocityRequest) -> None:
    if request.dataset.kind not in ORACLE_KINDS:
        raise InputError(
            f"velocity.kind = oracle needs dataset.kind {' or '.join(ORACLE_KINDS)}, got {request.dataset.kind!r}"
        )
    standardisation = DataStore(request.data).standardisation
    publish_model(
        request.place.folder,
        spec={
            "kind": "oracle",
            "target": asdict(request.dataset.target()),
            "interpolant": request.interpolant.kind,
            "mean": standardisation.mean.tolist(),
            "scale": standardisation.scale.tolist(),
            "key": request.place.key,
        },
    )


def _build_oracle(spec: dict[str, Any] | Any) -> OracleField:
    found = spec["target"]
    target = oracle_target(TargetSpec(**(found | {"mean": tuple(found["mean"]), "std": tuple(found["std"])})))
    if target is None:
        raise InputError(f"no oracle is known for {found['kind']!r}")
    shift, scale = (torch.tensor(spec[name], dtype=torch.float64) for name in ("mean", "scale"))
    return OracleField(Interpolant(spec["interpolant"]), target.affine(shift, scale))
