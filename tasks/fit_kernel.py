"""The kernel velocity: its bandwidth from the data, its publication as ``kernel.json``, and its field anywhere.

Nothing is trained. What is published names the data by a relative path and their digest, so that a root may be moved.
"""

import logging
import math

import numpy as np
import torch
from torch import Tensor

from storage.data import DataStore
from storage.errors import DamagedError, InputError
from storage.models import StoredModel, publish_model, read_model
from storage.ordering import permutation
from storage.paths import Location, follow, relative
from tasks.executor import Executor
from tasks.facts import TrainingPlace
from tasks.kernel_shards import StoredPoints, spread, stored_reduction
from tasks.rows import RowReader
from tasks.specs import InterpolantSpec, VelocitySpec
from tasks.training.checkpoint import weights_to_bytes
from tasks.transport.bandwidth import choose_bandwidth
from tasks.transport.interpolant import Interpolant
from tasks.transport.kernel_field import HeldPoints, KernelField, Regression
from tasks.transport.nearest import FITTED_ROWS, fit_reduction

logger = logging.getLogger(__name__)

_LEFT_OUT = 2048  # points, at most, whose likelihood under all the others the bandwidth maximises


def fit_kernel(
    velocity: VelocitySpec,
    interpolant: InterpolantSpec,
    *,
    data: Location,
    seed: int,
    place: TrainingPlace,
    classes: int,
    executor: Executor,
) -> None:
    """Choose the bandwidth and publish the kernel of a data store, told ``classes`` labels apart (0: none).

    Raises:
        InputError: no bandwidth makes the data likely.
    """
    store = DataStore(data)
    bandwidth = _bandwidth(velocity.bandwidth, store, seed=seed, executor=executor)
    sample, _ = _some_rows(store, FITTED_ROWS, seed=seed)
    reduction = fit_reduction(sample, seed=seed)
    publish_model(
        place.folder,
        spec={
            "kind": "kernel",
            "bandwidth": bandwidth,
            "interpolant": interpolant.kind,
            "classes": classes,
            "data": relative(data, start=place.folder),
            "data_digest": store.digest,
            "reach": reduction.reach,
            "key": place.key,
        },
        weights=weights_to_bytes({"directions": reduction.directions}),
    )
    logger.info("kernel velocity over %d points, bandwidth %.4g", store.rows, bandwidth)


def kernel_field(model: StoredModel, folder: Location) -> KernelField:
    """Give a published kernel whose points this process reads itself."""
    store = _store(model, folder)
    return _field(model, HeldPoints(points=StoredPoints(store, stored_reduction(model))))


def data_field(store: DataStore, interpolant: Interpolant, *, seed: int) -> KernelField:
    """Give the velocity of the data themselves, a kernel of bandwidth 0, whose points this process reads."""
    sample, _ = _some_rows(store, FITTED_ROWS, seed=seed)
    reduction = fit_reduction(sample, seed=seed)
    return KernelField(
        interpolant=interpolant,
        bandwidth=0.0,
        reduction=reduction,
        regression=HeldPoints(points=StoredPoints(store, reduction)),
    )


def spread_kernel_field(folder: Location, *, executor: Executor) -> KernelField:
    """Give a published kernel whose points are summed shard by shard through an executor."""
    model = read_model(folder)
    return _field(model, spread(_store(model, folder), velocity=folder, executor=executor))


def _field(model: StoredModel, regression: Regression) -> KernelField:
    return KernelField(
        interpolant=Interpolant(model.spec["interpolant"]),
        bandwidth=float(model.spec["bandwidth"]),
        reduction=stored_reduction(model),
        regression=regression,
    )


def _store(model: StoredModel, folder: Location) -> DataStore:
    path = follow(folder, model.spec["data"])
    store = DataStore(path)
    if store.digest != model.spec["data_digest"]:
        raise DamagedError(f"{path} is not the dataset that {folder} was made from; use another run name")
    return store


def _bandwidth(asked: float | str, store: DataStore, *, seed: int, executor: Executor) -> float:
    if not isinstance(asked, str):
        return float(asked)
    if store.rows < 3:
        raise InputError(f"velocity.bandwidth = loo needs at least 3 rows, the dataset has {store.rows}")
    x, rows = _some_rows(store, _LEFT_OUT, seed=seed)
    points = spread(store, velocity=None, executor=executor)
    wide = x.to(torch.float64)
    try:
        return choose_bandwidth(
            lambda bandwidths: points.leave_one_out(wide, rows, bandwidths), size=math.prod(store.dim), std=store.std
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def _some_rows(store: DataStore, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Give rows drawn without replacement, ``[count or all, size]``, and their numbers, ascending."""
    rows = np.sort(permutation(seed, 0, 0, rows=store.rows)[:count]).astype(np.int64)
    return torch.from_numpy(RowReader(store).take(rows)).flatten(1), torch.from_numpy(rows)
