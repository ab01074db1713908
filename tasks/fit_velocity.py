"""STEP fit_velocity: dataset shards become an estimate of the velocity field (arXiv 2405.05512, section 2.3)."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.data import DataStore
from storage.errors import InputError
from storage.journal import read_journal
from storage.models import StoredModel, publish_model, read_model
from tasks.networks.build import build_denoiser
from tasks.networks.denoiser import Denoiser
from tasks.specs import (
    ORACLE_KINDS,
    DatasetSpec,
    InterpolantSpec,
    NetworkSpec,
    Progress,
    TargetSpec,
    TrainingPlace,
    VelocitySpec,
)
from tasks.training.checkpoint import weights_from_bytes
from tasks.training.ddp import run_distributed
from tasks.training.fit import fit, is_published, resume
from tasks.training.group import Group
from tasks.training.loader import MatchingBatch, matching_batches, read_rank_rows
from tasks.transport.field import VelocityField
from tasks.transport.interpolant import Interpolant
from tasks.transport.losses import denoiser_matching_loss
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
    data: Path  # the ingested store
    place: TrainingPlace


@dataclass(frozen=True, kw_only=True)
class VelocitySummary:
    """What was estimated."""

    kind: str
    digest: str  # of specification and weights
    loss: float | None  # mean over the last log interval, a dimension; None for an oracle
    batch_size: int | None  # global; None for an oracle
    startup_seconds: float  # of the workers, not spent training


def fit_velocity(request: VelocityRequest, *, progress: Progress) -> VelocitySummary:
    """Estimate the velocity and publish it; a finished estimate under the same key is found and kept.

    Raises:
        InputError: an oracle was asked for a target that has none, or there are fewer shards than workers.
    """
    startup = 0.0
    if not is_published(request.place):
        match request.velocity.kind:
            case "oracle":
                _publish_oracle(request)
            case "network":
                startup = run_distributed(
                    train_velocity,
                    request,
                    workers=request.velocity.workers,
                    place=request.place,
                    steps=request.velocity.steps,
                    progress=progress,
                )
    model = read_model(request.place.folder)
    losses = read_journal(request.place.journal)
    return VelocitySummary(
        kind=model.spec["kind"],
        digest=model.digest,
        loss=losses[-1]["loss"] if losses else None,
        batch_size=request.velocity.batch_size if model.spec["kind"] == "network" else None,
        startup_seconds=startup,
    )


def train_velocity(request: VelocityRequest, group: Group) -> None:
    """Train this worker's replica of the velocity network on its own shards."""
    store = DataStore(request.data)
    spec = request.velocity.optimiser()
    kind = request.interpolant.kind
    denoiser = build_denoiser(
        request.velocity.network, store.dim, seed=request.seed, interpolant=kind, data_std=store.std
    )
    state = resume(denoiser, spec, request.place)
    interpolant, size = Interpolant(kind), float(torch.Size(store.dim).numel())

    def loss(batch: MatchingBatch) -> Tensor:
        rows = denoiser_matching_loss(
            denoiser, interpolant=interpolant, t=batch.t, x0=batch.x0, x1=batch.x1, data_std=store.std
        )
        return rows.mean() / size

    batches = matching_batches(
        read_rank_rows(store, group),
        seed=request.seed,
        step=state.step,
        batch_size=spec.batch_size,
        stop=request.stop,
        group=group,
    )
    model_spec = {
        "kind": "network",
        "network": asdict(request.velocity.network),
        "dim": list(store.dim),
        "interpolant": kind,
        "data_std": store.std,
    }
    fit(state, batches, loss, spec, stream_place=dict, place=request.place, model_spec=model_spec, group=group)


def load_velocity(folder: Path) -> VelocityField:
    """Read a published velocity for use in standardised units, without gradients."""
    model = read_model(folder)
    match model.spec["kind"]:
        case "oracle":
            return _build_oracle(model.spec)
        case "network":
            return build_stored_denoiser(model).requires_grad_(False).eval()
    raise InputError(f"velocity.kind must be oracle or network, {folder} has {model.spec['kind']!r}")


def build_stored_denoiser(model: StoredModel) -> Denoiser:
    """Give the velocity network that a model's folder holds."""
    spec = model.spec
    denoiser = build_denoiser(
        NetworkSpec(**spec["network"]),
        tuple(spec["dim"]),
        seed=0,
        interpolant=spec["interpolant"],
        data_std=spec["data_std"],
    )
    denoiser.load_state_dict(weights_from_bytes(model.weights))
    return denoiser


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
