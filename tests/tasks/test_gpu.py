"""What is computed on a GPU is what the CPU computes, and each step runs there; skipped where there is none."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from storage.data import DataStore
from storage.models import publish_model
from storage.paths import Location
from storage.trajectories import TrajectoryStore
from tasks.executor import SerialExecutor
from tasks.facts import TrainingPlace
from tasks.fit_velocity import VelocityRequest, load_velocity, train_velocity
from tasks.ingest import ingest
from tasks.integrate import IntegrateRequest, integrate
from tasks.networks.build import build_generator
from tasks.sample import sample_rows
from tasks.simulation import ChunkTask, simulate_chunk
from tasks.specs import DatasetSpec, GeneratorSpec, InterpolantSpec, NetworkSpec, TrajectoriesSpec, VelocitySpec
from tasks.train_generator import GeneratorRequest, load_generator, train_characteristics
from tasks.training.backward import backward
from tasks.training.checkpoint import weights_to_bytes
from tasks.training.device import Placement
from tasks.training.fitting import TorchPairs, fitting_loss
from tasks.training.graph import GraphedBackward
from tasks.training.group import alone

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DIGITS = DatasetSpec(kind="digits", shards=2)
UNET = NetworkSpec(kind="unet", channels=16, multipliers=(1, 2), attention=(4,))
DIM = (1, 8, 8)


def silent(*_: object) -> None:
    pass


def velocity_request(folder: Path, *, precision: str, compiled: bool = False) -> VelocityRequest:
    ingest(DIGITS, seed=0, path=folder / "data.zarr")
    spec = VelocitySpec(
        network=UNET, steps=60, batch_size=128, workers=1, warmup=5, precision=precision, compile=compiled
    )
    return VelocityRequest(
        velocity=spec,
        interpolant=InterpolantSpec(kind="trigonometric"),
        dataset=DIGITS,
        stop=0.99,
        seed=0,
        data=folder / "data.zarr",
        place=TrainingPlace(folder=folder / "velocity", key="v"),
    )


def simulated(folder: Path, velocity: VelocityRequest, *, device: str) -> TrajectoryStore:
    """Simulate 32 trajectories of a velocity, all in one chunk, where ``device`` says."""
    request = IntegrateRequest(
        trajectories=TrajectoriesSpec(count=32, steps=8, stop=0.99, chunk_rows=32),
        interpolant=velocity.interpolant,
        seed=3,
        dim=DIM,
        data=velocity.data,
        velocity=velocity.place.folder,
        store=folder / device,
        device="cpu",
    )
    integrate(request, executor=SerialExecutor(), progress=silent)
    store = TrajectoryStore.open(request.store)
    if device == "cuda":
        store.retract(0)
        simulate_chunk(ChunkTask(velocity=request.velocity, store=store.path, chunk=0, device=device))
        store.seal(rows=32)
    return store


def require_same_samples(generator: Path, data: Location, *, start: int, stop: int, guidance: float = 1.0) -> None:
    """Draw the same samples here and on the GPU."""
    here, there = (
        sample_rows(
            load_generator(generator, device=torch.device(device)),
            DataStore(data).standardisation,
            start=start,
            stop=stop,
            steps=2,
            seed=1,
            guidance=guidance,
        )
        for device in ("cpu", "cuda")
    )
    assert there == pytest.approx(here, abs=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of torch's own code, when it compiles
@pytest.mark.parametrize(
    ("precision", "compiled"), [("float32", False), ("tf32", False), ("bf16", False), ("bf16", True)]
)
def test_a_velocity_trained_on_a_gpu_has_learnt_what_one_trained_here_has(
    tmp_path: Path, precision: str, compiled: bool
) -> None:
    x, t = torch.randn(64, *DIM, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5)
    found = []
    for device in ("cpu", "cuda"):
        (tmp_path / device).mkdir()
        request = velocity_request(tmp_path / device, precision=precision, compiled=compiled)
        train_velocity(request, alone(torch.device(device)))
        found.append(load_velocity(request.place.folder).velocity(t, x))
    here, there = found
    assert (there - here).norm() < 0.1 * here.norm()


@pytest.mark.parametrize("is_bf16", [False, True])
def test_a_replayed_step_is_the_step(is_bf16: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Other data and other dropout each time, and a last batch of another size."""
    device = torch.device("cuda")
    network = replace(UNET, dropout=0.2)
    generator = build_generator(network, DIM, seed=0, interpolant="linear", data_std=1.0, classes=3).to(device)
    torch.nn.init.normal_(generator.backbone.output.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    parameters = list(generator.parameters())
    loss = fitting_loss(generator, GeneratorSpec(semigroup=0.5))
    placement = Placement(device=device, is_bf16=is_bf16)

    def eager(batch: TorchPairs) -> torch.Tensor:
        def placed(part: TorchPairs) -> torch.Tensor:
            with placement.autocast():
                return loss(part)

        return backward(placed, batch, rows=8)

    replayed = GraphedBackward(eager, parameters)
    draw = torch.Generator().manual_seed(0)
    for step in range(8):
        rows = 16 if step < 7 else 10
        t, r, s = torch.rand(3, rows, generator=draw).sort(0).values.to(device)
        x_t, x_s = torch.randn(2, rows, *DIM, generator=draw).to(device)
        batch = TorchPairs(x_t=x_t, x_s=x_s, t=t, s=s, r=r, label=torch.arange(rows, device=device) % 4 - 1)
        found = []
        for passes in (eager, replayed):
            generator.zero_grad(set_to_none=True)
            torch.manual_seed(step)
            losses = passes(batch)
            found.append((losses, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])))
        (expected, slope), (losses, gradient) = found
        assert torch.allclose(losses, expected, rtol=1e-2 if is_bf16 else 1e-4)
        assert (gradient - slope).norm() < (2e-2 if is_bf16 else 1e-3) * slope.norm()
    assert replayed._record is not None
    assert caplog.records == []


def test_what_asks_the_host_is_computed_as_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    layer = torch.nn.Linear(4, 1, device="cuda")

    def asking(x: torch.Tensor) -> torch.Tensor:
        losses: torch.Tensor = layer(x).square()[:, 0]
        (losses.mean() * losses.max().item()).backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    passes = GraphedBackward(asking, list(layer.parameters()))
    x = torch.randn(3, 4, device="cuda")
    for _ in range(6):
        layer.zero_grad(set_to_none=True)
        losses = passes(x)
        assert layer.weight.grad is not None
        first, slope = losses, layer.weight.grad.clone()
        layer.zero_grad(set_to_none=True)
        assert torch.equal(asking(x), first)
        assert torch.allclose(layer.weight.grad, slope)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "steps are computed kernel by kernel, a CUDA graph cannot be had"
    ]


def test_trajectories_of_a_gpu_are_those_of_the_cpu_up_to_rounding(tmp_path: Path) -> None:
    request = velocity_request(tmp_path, precision="float32")
    train_velocity(request, alone(torch.device("cuda")))
    here, there = (simulated(tmp_path, request, device=device).read_rows(0, 32) for device in ("cpu", "cuda"))
    assert np.array_equal(here[:, 0], there[:, 0])  # noise is drawn on the CPU
    assert there == pytest.approx(here, abs=2e-4)
    assert not np.array_equal(here, there)


def test_a_generator_trains_and_samples_on_a_gpu_as_on_the_cpu(tmp_path: Path) -> None:
    velocity = velocity_request(tmp_path, precision="bf16")
    train_velocity(velocity, alone(torch.device("cuda")))
    store = simulated(tmp_path, velocity, device="cpu")
    request = GeneratorRequest(
        generator=GeneratorSpec(network=UNET, steps=30, batch_size=64, workers=1, warmup=5, warm_start=True),
        count=32,
        seed=0,
        data=velocity.data,
        velocity=velocity.place.folder,
        store=store.path,
        place=TrainingPlace(folder=tmp_path / "generator", key="g"),
    )
    ends, errors = store.read_rows(0, 32)[:, -1], []
    noise = torch.from_numpy(store.read_rows(0, 32)[:, 0])
    times = torch.tensor(store.plan.times)
    for device in ("cpu", "cuda"):
        asked = replace(request, place=TrainingPlace(folder=tmp_path / f"generator-{device}", key="g"))
        train_characteristics(asked, alone(torch.device(device)))
        mapped = load_generator(asked.place.folder).generator(times[0], times[-1], noise)
        errors.append(float(np.square(mapped.numpy() - ends).mean()))
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
    require_same_samples(tmp_path / "generator-cuda", velocity.data, start=5, stop=90)


def test_classes_and_guidance_sample_on_a_gpu(tmp_path: Path) -> None:
    generator = build_generator(UNET, DIM, seed=0, interpolant="linear", data_std=1.0, classes=3)
    spec = {
        "kind": "generator",
        "form": "exponential",
        "network": asdict(UNET),
        "dim": list(DIM),
        "interpolant": "linear",
        "data_std": 1.0,
        "times": [0.0, 0.5, 1.0],
        "classes": 3,
        "class_shares": [0.5, 0.25, 0.25],
        "unlabelled_share": 0.1,
        "key": "g",
    }
    publish_model(tmp_path / "g", spec=spec, weights=weights_to_bytes(generator.state_dict()))
    ingest(DIGITS, seed=0, path=tmp_path / "data.zarr")
    require_same_samples(tmp_path / "g", tmp_path / "data.zarr", start=0, stop=20, guidance=1.5)


def test_a_velocity_is_measured_on_a_gpu(tmp_path: Path) -> None:
    request = velocity_request(tmp_path, precision="float32")
    train_velocity(request, alone(torch.device("cuda")))
    field = load_velocity(request.place.folder)
    x, t = torch.randn(16, *DIM, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5)
    here = field.velocity(t, x)
    there = field.to("cuda").velocity(t.cuda(), x.cuda())  # type: ignore[attr-defined]
    assert torch.allclose(here, there.cpu(), atol=1e-3)
