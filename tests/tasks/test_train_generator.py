"""Both trainings in this process: they learn, resume exactly, and publish under their key."""

import io
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from storage.checkpoints import Checkpoint, CheckpointFolder
from storage.errors import InputError, StreamConflictError
from storage.models import publish_model, read_model
from tasks.executor import SerialExecutor
from tasks.fit_velocity import VelocityRequest, fit_velocity, load_velocity, train_velocity
from tasks.ingest import ingest
from tasks.integrate import IntegrateRequest, integrate
from tasks.networks.build import build_generator
from tasks.networks.generator import Generator
from tasks.sample import sample
from tasks.specs import (
    DatasetSpec,
    GeneratorSpec,
    InterpolantSpec,
    NetworkSpec,
    TrainingPlace,
    TrajectoriesSpec,
    VelocitySpec,
)
from tasks.train_generator import GeneratorRequest, TorchPairs, fitting_loss, load_generator, train_characteristics
from tasks.training.checkpoint import to_checkpoint, weights_to_bytes
from tasks.training.group import alone
from tasks.training.loop import TrainingState

NETWORK = NetworkSpec(width=32, depth=2)
DATASET = DatasetSpec(kind="gaussian", mean=(3.0, -1.0), std=(2.0, 0.5), count=4000)


def silent(*_: object) -> None:
    pass


def velocity_request(folder: Path, *, kind: str = "network", dataset: DatasetSpec = DATASET) -> VelocityRequest:
    if not (folder / "data.zarr").exists():
        ingest(dataset, seed=0, path=folder / "data.zarr")
    return VelocityRequest(
        velocity=VelocitySpec(kind=kind, network=NETWORK, steps=60, batch_size=128, workers=1, warmup=5),
        interpolant=InterpolantSpec(),
        dataset=dataset,
        stop=0.9,
        seed=0,
        data=folder / "data.zarr",
        place=TrainingPlace(folder=folder / "velocity", key="v"),
    )


def generator_request(folder: Path, *, steps: int = 300, warm_start: bool = False) -> GeneratorRequest:
    velocity = velocity_request(folder, kind="oracle")
    fit_velocity(velocity, progress=silent)
    spec = TrajectoriesSpec(count=600, steps=8, stop=1.0, chunk_rows=64)
    integrate(
        IntegrateRequest(
            trajectories=spec,
            interpolant=InterpolantSpec(),
            seed=0,
            dim=(2,),
            data=velocity.data,
            velocity=velocity.place.folder,
            store=folder / "trajectories.zarr",
        ),
        executor=SerialExecutor(),
        progress=silent,
    )
    return GeneratorRequest(
        generator=GeneratorSpec(
            network=NETWORK,
            steps=steps,
            batch_size=256,
            workers=1,
            warmup=10,
            learning_rate=3e-3,
            ema=0.99,
            warm_start=warm_start,
        ),
        count=600,
        seed=0,
        data=folder / "data.zarr",
        velocity=velocity.place.folder,
        store=folder / "trajectories.zarr",
        place=TrainingPlace(folder=folder / "generator", key="g"),
    )


def test_a_trained_velocity_is_near_the_oracle(tmp_path: Path) -> None:
    request = velocity_request(tmp_path)
    train_velocity(request, alone())
    trained = load_velocity(request.place.folder)
    oracle_request = velocity_request(tmp_path, kind="oracle")
    fit_velocity(
        VelocityRequest(**(vars(oracle_request) | {"place": TrainingPlace(folder=tmp_path / "oracle", key="o")})),
        progress=silent,
    )
    oracle = load_velocity(tmp_path / "oracle")
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    t = torch.full((500,), 0.5)
    gap = (trained.velocity(t, x) - oracle.velocity(t, x)).square().mean().sqrt()
    assert gap < 0.25 * oracle.velocity(t, x).square().mean().sqrt() + 0.15


def test_an_interrupted_velocity_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = velocity_request(tmp_path / "a")
    train_velocity(straight, alone())
    stopped = velocity_request(tmp_path / "b")
    seen: list[int] = []

    def dying(state: TrainingState) -> Checkpoint:
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(state.step)
        return to_checkpoint(state)

    monkeypatch.setattr("tasks.training.fit.to_checkpoint", dying)
    with pytest.raises(KeyboardInterrupt):
        train_velocity(stopped, alone())
    monkeypatch.undo()
    assert seen == [6, 12, 18, 24]
    train_velocity(stopped, alone())
    assert read_model(straight.place.folder).weights == read_model(stopped.place.folder).weights


def test_a_generator_learns_the_euler_law_of_its_trajectories(tmp_path: Path) -> None:
    request = generator_request(tmp_path)
    train_characteristics(request, alone())
    x = sample(request.place.folder, request.data, count=4000, steps=1, seed=9)
    t = torch.arange(8) / 8
    factor = torch.prod(1 + (2 * t - 1) / ((1 - t) ** 2 + t**2) / 8).item()  # of Euler's law, standardised: 0.84
    assert x.mean(0) == pytest.approx([3.0, -1.0], abs=0.15)
    assert x.std(0) == pytest.approx([2.0 * factor, 0.5 * factor], rel=0.05)


def test_sample_i_is_the_same_whatever_the_count(tmp_path: Path) -> None:
    request = generator_request(tmp_path, steps=5)
    train_characteristics(request, alone())
    few = sample(request.place.folder, request.data, count=10, steps=2, seed=4)
    many = sample(request.place.folder, request.data, count=5000, steps=2, seed=4)
    assert few == pytest.approx(many[:10], abs=1e-5)
    other = sample(request.place.folder, request.data, count=10, steps=2, seed=5)
    assert abs(few - other).max() > 0.1


@pytest.mark.parametrize("steps", [0, 9])
def test_more_evaluations_than_stored_steps_are_refused(tmp_path: Path, steps: int) -> None:
    request = generator_request(tmp_path, steps=2)
    train_characteristics(request, alone())
    with pytest.raises(InputError, match=rf"--steps must be in \[1, 8\], got {steps}"):
        sample(request.place.folder, request.data, count=1, steps=steps, seed=0)


def test_an_interrupted_generator_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = generator_request(tmp_path / "a", steps=40)
    train_characteristics(straight, alone())
    stopped = generator_request(tmp_path / "b", steps=40)

    def dying(state: TrainingState) -> Checkpoint:
        if state.step == 24:
            raise KeyboardInterrupt
        return to_checkpoint(state)

    monkeypatch.setattr("tasks.training.fit.to_checkpoint", dying)
    with pytest.raises(KeyboardInterrupt):
        train_characteristics(stopped, alone())
    monkeypatch.undo()
    train_characteristics(stopped, alone())
    assert read_model(straight.place.folder).weights == read_model(stopped.place.folder).weights


def test_a_checkpoint_of_another_order_is_refused_with_what_differs_and_the_remedy(tmp_path: Path) -> None:
    request = generator_request(tmp_path, steps=2)
    train_characteristics(request, alone())
    newest = CheckpointFolder(request.place.checkpoints).newest()
    assert newest is not None
    place = torch.load(io.BytesIO(newest.payload), weights_only=True)["place"]
    assert {name: type(value) for name, value in place.items()} == {
        "seed": int,
        "epoch": int,
        "position": int,
        "manifest": str,
    }
    words = rf"of seed 1 cannot go on from a place of seed 0; .* delete {request.place.checkpoints} to train anew"
    with pytest.raises(StreamConflictError, match=words):
        train_characteristics(replace(request, seed=1), alone())


def test_a_stored_generator_is_the_identity_at_equal_times(tmp_path: Path) -> None:
    request = generator_request(tmp_path, steps=3)
    train_characteristics(request, alone())
    stored = load_generator(request.place.folder)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    for t in stored.times:
        time = torch.tensor(t)
        assert torch.allclose(stored.generator(time, time, x), x, atol=1e-6)


@pytest.mark.parametrize("semigroup", [0.0, 0.5])
def test_the_loss_gives_each_row_its_label(semigroup: float) -> None:
    """With the map that moves a row at the speed of its label the loss of such pairs vanishes, and of others not."""

    def shift(t: Tensor, s: Tensor, x: Tensor, label: Tensor | None) -> Tensor:
        return x if label is None else x + ((s - t) * label)[:, None]

    label = torch.tensor([-1, 0, 4, 2])
    t, s, x = torch.tensor([0.0, 0.1, 0.2, 0.3]), torch.tensor([1.0, 0.5, 0.9, 0.4]), torch.zeros(4, 2)
    r = (t + s) / 2 if semigroup else None
    pairs = TorchPairs(x_t=x, x_s=shift(t, s, x, label), t=t, s=s, label=label, r=r)
    loss = fitting_loss(cast(Generator, shift), semigroup=semigroup)
    assert float(loss(pairs)) < 1e-12
    unlabelled = ((s - t) * label).square().mean()
    assert float(loss(replace(pairs, label=None))) == pytest.approx((1 + semigroup) * float(unlabelled))


def test_a_generator_that_was_published_before_there_were_classes_is_unconditional(tmp_path: Path) -> None:
    generator = build_generator(NETWORK, (2,), seed=0, interpolant="linear", data_std=1.0)
    spec = {"network": {"width": 32, "depth": 2}, "dim": [2], "interpolant": "linear", "data_std": 1.0, "times": [0, 1]}
    publish_model(tmp_path, spec=spec, weights=weights_to_bytes(generator.state_dict()))
    stored = load_generator(tmp_path)
    assert (stored.classes, stored.class_shares, stored.unlabelled_share) == (0, (), 0.0)


def test_an_oracle_for_a_target_that_has_none_is_refused(tmp_path: Path) -> None:
    request = velocity_request(tmp_path, kind="oracle", dataset=DatasetSpec(kind="moons", count=100))
    with pytest.raises(InputError, match=r"needs dataset\.kind gaussian or mixture, got 'moons'"):
        fit_velocity(request, progress=silent)
