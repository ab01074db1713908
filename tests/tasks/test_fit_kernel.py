"""The kernel from stored shards: its bits do not depend on the shards, its bandwidth is the likeliest, it simulates."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from storage.chunks import Shard
from storage.data import DataStore
from storage.errors import DamagedError, InputError
from storage.models import read_model
from storage.trajectories import TrajectoryStore
from tasks.executor import RayExecutor, SerialExecutor
from tasks.facts import TrainingPlace
from tasks.fit_kernel import data_field, spread_kernel_field
from tasks.fit_velocity import VelocityRequest, VelocitySummary, fit_velocity, load_velocity
from tasks.ingest import ingest
from tasks.integrate import IntegrateRequest, integrate
from tasks.specs import DatasetSpec, InterpolantSpec, TrajectoriesSpec, VelocitySpec
from tasks.transport.interpolant import Interpolant
from tests.local import on_disk
from tests.tasks.transport.kernels import velocity_by_definition

ROWS, SIZE = 9000, 200


def silent(*_: object) -> None:
    pass


class Backwards(SerialExecutor):
    """Runs the last item first, as workers of different speed might."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], **_: object) -> Iterator[Any]:
        yield from map(function, reversed(list(items)))


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of labelled points near a 20-dimensional subspace."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 20)) @ rng.standard_normal((20, SIZE)) / 4 + 0.2 * rng.standard_normal((ROWS, SIZE))
    path = tmp_path_factory.mktemp("arrays") / "points.npz"
    np.savez(path, x=x.astype(np.float32), label=np.arange(ROWS) % 3)
    return path


def request_of(
    folder: Path, dataset: DatasetSpec, *, bandwidth: float | str = 0.1, conditional: bool = False
) -> VelocityRequest:
    if not (folder / "data.zarr").exists():
        ingest(dataset, seed=0, path=folder / "data.zarr")
    return VelocityRequest(
        velocity=VelocitySpec(kind="kernel", bandwidth=bandwidth, conditional=conditional),
        interpolant=InterpolantSpec(),
        dataset=dataset,
        stop=0.99,
        seed=0,
        data=folder / "data.zarr",
        place=TrainingPlace(folder=folder / "velocity", key="k"),
    )


def fitted(request: VelocityRequest) -> VelocitySummary:
    return fit_velocity(request, progress=silent, executor=SerialExecutor())


def states_of(request: VelocityRequest, t: float, *, rows: int = 20, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.from_numpy(DataStore(request.data).read(Shard(0, rows))).flatten(1).to(dtype)
    return t * x + (1 - t) * torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=dtype)


@pytest.mark.parametrize("t", [0.2, 0.97])
def test_the_stored_kernel_has_the_velocity_by_definition(tmp_path: Path, arrays: Path, t: float) -> None:
    request = request_of(tmp_path, DatasetSpec(kind="npz", path=str(arrays), shards=3))
    assert fitted(request).kind == "kernel"
    time, states = torch.tensor(t, dtype=torch.float64), states_of(request, t)
    x = torch.from_numpy(DataStore(request.data).read(Shard(0, ROWS)))
    expected = velocity_by_definition(x, kind="linear", bandwidth=0.1, t=time, x_t=states)
    found = load_velocity(request.place.folder).velocity(time, states)
    assert ((found - expected).abs() / (1 + states.abs() / (1 - t))).max() < 1e-10


def test_the_velocity_of_the_data_themselves_needs_no_bandwidth(tmp_path: Path, arrays: Path) -> None:
    request = request_of(tmp_path, DatasetSpec(kind="npz", path=str(arrays), shards=3), bandwidth=0.0)
    fitted(request)
    time, states = torch.tensor(0.9, dtype=torch.float64), states_of(request, 0.9)
    field = data_field(DataStore(request.data), Interpolant("linear"), seed=0)
    assert torch.equal(field.velocity(time, states), load_velocity(request.place.folder).velocity(time, states))


@pytest.mark.parametrize("t", [0.4, 0.97])
def test_any_number_and_order_of_shards_gives_the_same_bits(
    tmp_path: Path, arrays: Path, t: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("kernel_shards", "transport.kernel", "transport.kernel_field"):
        monkeypatch.setattr(f"tasks.{module}.LEAF_ROWS", 1000)
    time = torch.tensor(t, dtype=torch.float64)
    found = []
    for shards in (1, 2, 5, 8):
        folder = tmp_path / str(shards)
        request = request_of(folder, DatasetSpec(kind="npz", path=str(arrays), shards=shards))
        fitted(request)
        states = states_of(request, t)
        found.append(load_velocity(request.place.folder).velocity(time, states))
        fields = [spread_kernel_field(request.place.folder, executor=e) for e in (SerialExecutor(), Backwards())]
        found += [field.velocity(time, states) for field in fields]
    for other in found[1:]:
        assert torch.equal(other, found[0])


def test_the_published_kernel_is_json_beside_small_weights_and_follows_a_moved_root(
    tmp_path: Path, arrays: Path
) -> None:
    request = request_of(tmp_path / "a", DatasetSpec(kind="npz", path=str(arrays)))
    fitted(request)
    assert sorted(p.name for p in request.place.folder.iterdir() if p.is_file()) == ["kernel.json", "model.safetensors"]
    spec = read_model(request.place.folder).spec
    assert (spec["bandwidth"], spec["data"]) == (0.1, "../data.zarr")
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = load_velocity(tmp_path / "b" / "velocity")
    assert moved.velocity(torch.tensor(0.5), torch.zeros(2, SIZE)).shape == (2, SIZE)


def test_another_dataset_under_the_same_path_is_refused(tmp_path: Path, arrays: Path) -> None:
    request = request_of(tmp_path, DatasetSpec(kind="npz", path=str(arrays)))
    fitted(request)
    shutil.rmtree(on_disk(request.data))
    ingest(DatasetSpec(kind="gaussian", count=50, dim=SIZE), seed=0, path=request.data)
    with pytest.raises(DamagedError, match=r"is not the dataset"):
        load_velocity(request.place.folder)


def test_the_bandwidth_of_a_gaussian_in_the_plane_is_near_the_rule_of_thumb(tmp_path: Path) -> None:
    """For a standard normal law the best h is of the order n^(-1 / (d + 4)) (Silverman, 1986)."""
    request = request_of(tmp_path, DatasetSpec(kind="gaussian", count=2000), bandwidth="loo")
    fitted(request)
    bandwidth = read_model(request.place.folder).spec["bandwidth"]
    assert 0.6 < bandwidth / 2000 ** (-1 / 6) < 1.6


def test_the_bandwidth_does_not_depend_on_the_shards(tmp_path: Path) -> None:
    found = []
    for shards in (1, 4):
        dataset = DatasetSpec(kind="moons", count=2000, shards=shards)
        request = request_of(tmp_path / str(shards), dataset, bandwidth="loo")
        fit_velocity(request, progress=silent, executor=Backwards())
        found.append(read_model(request.place.folder).spec["bandwidth"])
    assert found[0] == found[1]


def test_data_that_repeat_have_no_bandwidth(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32)
    np.savez(tmp_path / "twins.npz", x=np.concatenate([x, x]))
    request = request_of(tmp_path, DatasetSpec(kind="npz", path=str(tmp_path / "twins.npz")), bandwidth="loo")
    with pytest.raises(InputError, match=r"velocity.bandwidth = loo .* give a number"):
        fitted(request)
    assert not request.place.folder.exists()


def test_labels_are_asked_of_a_dataset_that_has_them(tmp_path: Path, arrays: Path) -> None:
    request = request_of(tmp_path, DatasetSpec(kind="gaussian", count=50), conditional=True)
    with pytest.raises(InputError, match=r"velocity.conditional = true needs"):
        fitted(request)
    labelled = request_of(tmp_path / "b", DatasetSpec(kind="npz", path=str(arrays)), conditional=True)
    fitted(labelled)
    assert read_model(labelled.place.folder).spec["classes"] == 3


def simulated(request: VelocityRequest, *, store: Path, executor: Any, is_spread: bool, count: int = 60) -> np.ndarray:
    integrate(
        IntegrateRequest(
            trajectories=TrajectoriesSpec(count=count, steps=6, stop=0.98, chunk_rows=16, sub_batch=16),
            interpolant=InterpolantSpec(),
            seed=1,
            dim=DataStore(request.data).dim,
            data=request.data,
            velocity=request.place.folder,
            store=store,
            is_spread=is_spread,
        ),
        executor=executor,
        progress=silent,
    )
    return TrajectoryStore.open(store).read_rows(0, count)


def test_spreading_the_shards_changes_no_byte_of_the_trajectories(tmp_path: Path, arrays: Path) -> None:
    request = request_of(tmp_path, DatasetSpec(kind="npz", path=str(arrays), shards=3), conditional=True)
    fitted(request)
    whole = simulated(request, store=tmp_path / "a.zarr", executor=SerialExecutor(), is_spread=False)
    spread = simulated(request, store=tmp_path / "b.zarr", executor=Backwards(), is_spread=True)
    assert np.array_equal(whole, spread)


def test_a_kernel_of_bandwidth_zero_arrives_at_the_points_of_each_rows_class(tmp_path: Path, arrays: Path) -> None:
    request = request_of(tmp_path, DatasetSpec(kind="npz", path=str(arrays), shards=3), bandwidth=0.0, conditional=True)
    fitted(request)
    ends = torch.from_numpy(simulated(request, store=tmp_path / "a.zarr", executor=SerialExecutor(), is_spread=False))
    data = DataStore(request.data)
    x = torch.from_numpy(data.read(Shard(0, ROWS)))
    labels = torch.from_numpy(np.asarray(data.labels(Shard(0, ROWS))))
    nearest = torch.cdist(ends[:, -1], x).argmin(1)
    asked = torch.from_numpy(
        np.concatenate([TrajectoryStore.open(tmp_path / "a.zarr").read_labels(k) for k in range(4)])[:60]
    )
    labelled = asked >= 0
    assert labelled.sum() > 40
    assert torch.equal(labels[nearest][labelled], asked[labelled])


@pytest.mark.slow
def test_ray_tasks_sum_the_shards_to_the_same_bytes(tmp_path: Path, arrays: Path, cluster: RayExecutor) -> None:
    request = request_of(tmp_path, DatasetSpec(kind="npz", path=str(arrays), shards=3), bandwidth="loo")
    fitted(request)
    here = simulated(request, store=tmp_path / "a.zarr", executor=SerialExecutor(), is_spread=False)
    alone = read_model(request.place.folder)
    again = replace(request, place=TrainingPlace(folder=tmp_path / "again", key="k"))
    fit_velocity(again, progress=silent, executor=cluster)
    there = simulated(request, store=tmp_path / "b.zarr", executor=cluster, is_spread=True, count=32)
    chunks = simulated(request, store=tmp_path / "c.zarr", executor=cluster, is_spread=False)
    assert read_model(tmp_path / "again").spec["bandwidth"] == alone.spec["bandwidth"]
    assert np.array_equal(there, here[:32])
    assert np.array_equal(chunks, here)
