"""What a worker does with a chunk, and where: the device, the precision, what falls back."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from storage.commits import Commit
from storage.errors import InputError
from storage.models import publish_model
from storage.trajectories import TrajectoryStore
from tasks.executor import SerialExecutor
from tasks.flight import NODE_VARIABLE
from tasks.integrate import IntegrateRequest, integrate, plan_trajectories
from tasks.networks.build import build_denoiser
from tasks.simulation import ChunkTask, arithmetic_of, placement_of, planned_velocity, simulate_chunk, solve_chunk
from tasks.specs import InterpolantSpec, NetworkSpec, TrajectoriesSpec
from tasks.training.checkpoint import weights_to_bytes
from tasks.training.device import CPU, Placement
from tasks.transport.field import Guided
from tasks.transport.grid import time_grid
from tasks.transport.interpolant import Interpolant
from tasks.transport.solver import SOLVERS, solve
from tests.tasks.test_integrate import request_of

SPEC = TrajectoriesSpec(count=40, steps=4, stop=0.9, chunk_rows=16, sub_batch=8)
MLP = NetworkSpec(kind="mlp", width=16, depth=2)
UNET = NetworkSpec(kind="unet", width=8, depth=1)
BF16 = Placement(is_bf16=True)


def silent(*_: object) -> None:
    pass


def network_request(folder: Path, *, spec: TrajectoriesSpec = SPEC, device: str = "auto") -> IntegrateRequest:
    """Ask for trajectories of a network that was never trained, but whose output is not zero."""
    denoiser = build_denoiser(MLP, (2,), seed=0, interpolant="linear", data_std=1.0)
    weight: Any = denoiser.backbone.output.weight  # type: ignore[union-attr]
    nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(0))
    model = {"kind": "network", "network": {"kind": "mlp", "width": 16, "depth": 2}, "dim": [2], "data_std": 1.0}
    model |= {"interpolant": "linear", "key": "k"}
    publish_model(folder / "velocity", spec=model, weights=weights_to_bytes(denoiser.state_dict()))
    return IntegrateRequest(
        trajectories=spec,
        interpolant=InterpolantSpec(),
        seed=3,
        dim=(2,),
        data=folder / "data.zarr",
        velocity=folder / "velocity",
        store=folder / "trajectories.zarr",
        device=device,
    )


class GpuExecutor(SerialExecutor):
    """Says that it has GPUs, and keeps what they were to do."""

    def __init__(self) -> None:
        self.tasks: list[ChunkTask] = []
        self.devices: set[str] = set()

    @property
    def gpus(self) -> float:
        return 2

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any], *, device: str = "cpu", **_: object
    ) -> Iterator[Any]:
        for task in items:
            self.tasks.append(task)
            self.devices.add(device)
            yield function(replace(task, device="cpu"))


@pytest.mark.parametrize(("asked", "found"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_a_networks_chunks_go_to_gpus_where_there_are_some(asked: str, found: str, tmp_path: Path) -> None:
    executor = GpuExecutor()
    integrate(network_request(tmp_path, device=asked), executor=executor, progress=silent)
    assert [(task.chunk, task.device) for task in executor.tasks] == [(chunk, found) for chunk in range(3)]
    assert executor.devices == {found}


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_solved(tmp_path: Path) -> None:
    request = network_request(tmp_path, device="cuda")
    with pytest.raises(InputError, match=r"compute\.device = cuda needs a GPU"):
        integrate(request, executor=SerialExecutor(), progress=silent)
    assert TrajectoryStore.open(request.store).ledger.committed() == set()


def test_a_gpu_that_torch_cannot_use_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = network_request(tmp_path)
    integrate(replace(request, trajectories=replace(SPEC, count=16)), executor=SerialExecutor(), progress=silent)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"compute\.device must be cpu here: Ray has a GPU"):
        simulate_chunk(ChunkTask(velocity=request.velocity, store=request.store, chunk=1, device="cuda"))


def test_what_only_a_gpu_does_is_said_once_planned_and_done_in_float32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, asked = (
        network_request(tmp_path / name, spec=spec)
        for name, spec in (("plain", SPEC), ("asked", replace(SPEC, matmul="bf16", compile=True)))
    )
    for request in (plain, asked):
        integrate(request, executor=SerialExecutor(), progress=silent)
    (message,) = caplog.messages
    assert message.startswith("trajectories.matmul = bf16 and trajectories.compile = true: for a GPU only;")
    one, other = (TrajectoryStore.open(request.store) for request in (plain, asked))
    assert np.array_equal(one.read_rows(0, 40), other.read_rows(0, 40))
    assert set(other.ledger.plan()) - set(one.ledger.plan()) == {"matmul", "is_compiled"}
    assert placement_of(other.plan, torch.device("cuda")) == Placement(
        device=torch.device("cuda"), is_bf16=True, is_compiled=True
    )
    assert placement_of(other.plan, CPU) == placement_of(one.plan, CPU) == Placement()


def test_bf16_moves_the_states_a_little_and_the_arithmetic_tells(tmp_path: Path) -> None:
    request = network_request(tmp_path)
    integrate(request, executor=SerialExecutor(), progress=silent)
    store = TrajectoryStore.open(request.store)
    field = planned_velocity(request.velocity, store.plan)
    exact, coarse = (solve_chunk(store.plan, 1, field=field, placement=place).copy() for place in (Placement(), BF16))
    assert coarse.dtype == exact.dtype == np.float32
    assert np.array_equal(exact, store.read_chunk(1))
    assert np.array_equal(exact[:, 0], coarse[:, 0])  # the noise
    change = np.abs(exact - coarse)[:, -1].max()
    assert 1e-5 < change < 0.05  # bf16 keeps 8 bits of a product
    commit: Commit = store.ledger.read(1)
    assert arithmetic_of(store.plan, field) == commit.arithmetic != arithmetic_of(store.plan, field, placement=BF16)


def test_a_device_too_small_for_a_chunk_names_it_and_the_remedy(tmp_path: Path) -> None:
    plan = plan_trajectories(network_request(tmp_path), velocity_digest="0" * 32)

    class Greedy:
        def velocity(self, t: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

        denoiser = velocity

    with pytest.raises(MemoryError, match=r"chunk 2 of 16 rows needs more memory .* lower trajectories\.chunk_rows"):
        solve_chunk(plan, 2, field=Greedy())


def test_the_part_of_a_velocity_that_is_called_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = network_request(tmp_path)
    integrate(request, executor=SerialExecutor(), progress=silent)
    plan = TrajectoryStore.open(request.store).plan
    compiled = list[nn.Module]()
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    field = planned_velocity(request.velocity, plan, placement=Placement(is_compiled=True))
    assert compiled == [field.backbone]  # type: ignore[attr-defined]
    assert {id(weight) for weight in field.parameters()} == {id(weight) for weight in compiled[0].parameters()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize(("network", "dim"), [(MLP, (6,)), (UNET, (1, 8, 8))], ids=["mlp", "unet"])
def test_a_network_is_solved_on_another_device_without_a_tensor_of_the_cpu(
    network: NetworkSpec, dim: tuple[int, ...], solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guided, "_has_labels", True)  # would be read from the device
    away = torch.device("meta")  # refuses tensors of other devices as a GPU does, and computes shapes alone
    denoiser = build_denoiser(network, dim, seed=0, interpolant="linear", data_std=1.0, classes=3)
    field = denoiser.to(away).given(torch.zeros(4, dtype=torch.int64, device=away), 2.0)
    grid = torch.tensor(time_grid("uniform", steps=3, stop=0.9).tolist(), dtype=torch.float64, device=away)
    x0 = torch.empty(4, *dim, device=away)
    out = torch.empty(4, 4, *dim, device=away)
    assert solve(field, x0, grid, solver=solver, interpolant=Interpolant("linear"), out=out).device == away


def test_a_record_names_the_node_of_a_cluster_that_made_it_and_none_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(tmp_path, spec=SPEC)
    monkeypatch.delenv(NODE_VARIABLE, raising=False)
    integrate(replace(request, trajectories=replace(SPEC, count=16)), executor=SerialExecutor(), progress=silent)
    monkeypatch.setenv(NODE_VARIABLE, "f00")
    integrate(request, executor=SerialExecutor(), progress=silent)
    ledger = TrajectoryStore.open(request.store).ledger
    assert [commit.node for commit in ledger.read_many(range(3))] == ["", "f00", "f00"]


def test_gpus_that_are_asked_for_in_vain_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The velocity is an oracle, which is computed on the CPU."""
    executor = GpuExecutor()
    request = replace(request_of(tmp_path, spec=SPEC), device="auto", asks_for_gpu=True)
    integrate(request, executor=executor, progress=silent)
    assert executor.devices == {"cpu"}
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["compute.integrate.gpus"]
