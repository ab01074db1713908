"""Both trainings in this process: they learn, resume exactly, and publish under their key."""

import io
import re
import shutil
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from storage.checkpoints import Checkpoint, CheckpointFolder
from storage.errors import InputError, StreamConflictError
from storage.models import has_model, publish_model, read_model
from storage.specs import TrajectoryPlan
from storage.stream import PairStream
from storage.trajectories import TrajectoryStore
from tasks.executor import SerialExecutor
from tasks.facts import TrainingPlace
from tasks.fit_velocity import VelocityRequest, fit_velocity, load_velocity, train_velocity
from tasks.ingest import ingest
from tasks.integrate import IntegrateRequest, integrate
from tasks.networks.build import build_generator
from tasks.sample import sample
from tasks.specs import (
    GENERATOR_FORMS,
    DatasetSpec,
    GeneratorSpec,
    InterpolantSpec,
    NetworkSpec,
    TrajectoriesSpec,
    VelocitySpec,
)
from tasks.train_generator import (
    GeneratorRequest,
    _with_diagonal,
    load_generator,
    stream_spec,
    train_characteristics,
    train_generator,
)
from tasks.training.checkpoint import to_checkpoint, weights_to_bytes
from tasks.training.fitting import TorchPairs
from tasks.training.group import alone
from tasks.training.loop import TrainingState, begin
from tasks.transport.interpolant import Interpolant
from tasks.transport.solver import solve
from tests.local import on_disk

NETWORK = NetworkSpec(width=32, depth=2)
DATASET = DatasetSpec(kind="gaussian", mean=(3.0, -1.0), std=(2.0, 0.5), count=4000)


def silent(*_: object) -> None:
    pass


def velocity_request(
    folder: Path, *, kind: str = "network", dataset: DatasetSpec = DATASET, interpolant: str = "linear"
) -> VelocityRequest:
    if not (folder / "data.zarr").exists():
        ingest(dataset, seed=0, path=folder / "data.zarr")
    return VelocityRequest(
        velocity=VelocitySpec(kind=kind, network=NETWORK, steps=60, batch_size=128, workers=1, warmup=5),
        interpolant=InterpolantSpec(kind=interpolant),
        dataset=dataset,
        stop=0.9,
        seed=0,
        data=folder / "data.zarr",
        place=TrainingPlace(folder=folder / "velocity", key="v"),
    )


def generator_request(
    folder: Path,
    *,
    steps: int = 300,
    warm_start: bool = False,
    velocity: VelocityRequest | None = None,
    interpolant: str = "linear",
) -> GeneratorRequest:
    if velocity is None:
        velocity = velocity_request(folder, kind="oracle", interpolant=interpolant)
        fit_velocity(velocity, progress=silent)
    spec = TrajectoriesSpec(count=600, steps=8, stop=1.0, chunk_rows=64)
    integrate(
        IntegrateRequest(
            trajectories=spec,
            interpolant=velocity.interpolant,
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


def test_a_generator_that_was_published_before_there_were_classes_is_unconditional(tmp_path: Path) -> None:
    generator = build_generator(NETWORK, (2,), seed=0, interpolant="linear", data_std=1.0)
    spec = {"network": {"width": 32, "depth": 2}, "dim": [2], "interpolant": "linear", "data_std": 1.0, "times": [0, 1]}
    publish_model(tmp_path, spec=spec, weights=weights_to_bytes(generator.state_dict()))
    stored = load_generator(tmp_path)
    assert (stored.classes, stored.class_shares, stored.unlabelled_share) == (0, (), 0.0)
    assert stored.generator.form == "exponential"


def test_a_form_is_trained_and_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded is the map that was trained; not for the linear interpolant, for which the two forms are one."""
    trained: list[nn.Module] = []

    def begun(model: nn.Module, *args: Any, **kwargs: Any) -> TrainingState:
        trained.append(model)
        return begin(model, *args, **kwargs)

    monkeypatch.setattr("tasks.training.fit.begin", begun)
    request = generator_request(tmp_path, steps=3, interpolant="trigonometric")
    x, t, s = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.2), torch.tensor(0.9)
    maps = []
    for form in GENERATOR_FORMS:
        place = TrainingPlace(folder=tmp_path / form, key="g")
        train_characteristics(
            replace(request, generator=replace(request.generator, form=form, ema=0.0), place=place), alone()
        )
        generator = load_generator(place.folder).generator
        assert generator.form == form
        maps.append(generator(t, s, x))
        torch.testing.assert_close(trained[-1](t, s, x), maps[-1])
    assert (maps[0] - maps[1]).abs().max() > 0.01


@pytest.mark.parametrize("form", GENERATOR_FORMS)
def test_a_warm_start_begins_at_the_step_of_the_stored_velocity(tmp_path: Path, form: str) -> None:
    velocity = velocity_request(tmp_path, interpolant="trigonometric")
    train_velocity(velocity, alone())
    teacher = load_velocity(velocity.place.folder)
    request = generator_request(tmp_path, steps=1, warm_start=True, velocity=velocity)
    train_characteristics(
        replace(request, generator=replace(request.generator, form=form, learning_rate=1e-30)), alone()
    )
    generator = load_generator(request.place.folder).generator
    x, span = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.9])
    step = solve(teacher, x, span, solver=form, interpolant=Interpolant("trigonometric"))[:, 1]
    assert torch.equal(generator(span[0], span[1], x), step)


def everything(request: GeneratorRequest, folder: Path) -> GeneratorRequest:
    """The request with every term that a loss can have."""
    (folder / "waves.py").write_text("def of(x):\n    return x.flatten(1).sin()\n")
    spec = replace(request.generator, semigroup=0.2, diagonal=0.5, features="waves:of", loss="huber", form="euler")
    return replace(request, generator=spec)


def test_a_training_with_every_term_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    straight = everything(generator_request(tmp_path / "a", steps=20), tmp_path)
    stopped = replace(straight, place=TrainingPlace(folder=tmp_path / "b", key="g"))
    plain = replace(straight, place=TrainingPlace(folder=tmp_path / "c", key="g"))
    plain = replace(plain, generator=replace(straight.generator, diagonal=0.0))
    for request in (straight, plain):
        train_characteristics(request, alone())

    def dying(state: TrainingState) -> Checkpoint:
        if state.step == 12:
            raise KeyboardInterrupt
        return to_checkpoint(state)

    monkeypatch.setattr("tasks.training.fit.to_checkpoint", dying)
    with pytest.raises(KeyboardInterrupt):
        train_characteristics(stopped, alone())
    monkeypatch.setattr("tasks.training.fit.to_checkpoint", to_checkpoint)
    train_characteristics(stopped, alone())
    weights = [read_model(request.place.folder).weights for request in (straight, stopped, plain)]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_parts_of_a_batch_cut_the_rows_of_the_data_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    whole = everything(generator_request(tmp_path / "a", steps=3), tmp_path)
    parts = replace(whole, place=TrainingPlace(folder=tmp_path / "b", key="g"))
    parts = replace(parts, generator=replace(whole.generator, micro_batch_size=100))
    for request in (whole, parts):
        train_characteristics(request, alone())
    x, t, s = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.2), torch.tensor(0.9)
    found, expected = (load_generator(request.place.folder).generator(t, s, x) for request in (parts, whole))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@dataclass
class Planned:
    plan: TrajectoryPlan


def test_rows_on_the_diagonal_are_labelled_as_often_as_trajectories_are(tmp_path: Path) -> None:
    label = np.arange(600) % 3
    np.savez(tmp_path / "rows.npz", x=np.stack([label, -label], 1).astype(np.float32), label=label)
    spec = DatasetSpec(kind="npz", path=str(tmp_path / "rows.npz"), standardise=False)
    ingest(spec, seed=0, path=tmp_path / "data.zarr")
    plan = TrajectoryPlan(
        dim=(2,),
        times=(0.0, 0.8),
        chunk_rows=1,
        dtype="float32",
        codec="none",
        interpolant="linear",
        grid="uniform",
        solver="euler",
        seed=0,
        sub_batch=1,
        velocity="",
        class_shares=(1 / 3,) * 3,
        unlabelled_share=0.25,
    )
    request = GeneratorRequest(
        generator=GeneratorSpec(batch_size=512, workers=1, diagonal=1.0),
        count=1,
        seed=0,
        data=tmp_path / "data.zarr",
        velocity=tmp_path,
        store=tmp_path,
        place=TrainingPlace(folder=tmp_path, key="g"),
    )
    none = torch.zeros(512)
    pairs = TorchPairs(x_t=none, x_s=none, t=none, s=none, label=None)
    for store, is_labelled in ((plan, True), (replace(plan, class_shares=(), unlabelled_share=0.0), False)):
        found = _with_diagonal(iter([pairs]), request, cast(TrajectoryStore, Planned(store)), step=3, group=alone())
        rows = next(found).diagonal
        assert rows is not None
        assert 0.79 < rows.t.max() < 0.8
        assert (rows.label is not None) == is_labelled
        if rows.label is not None:
            known = rows.label >= 0
            assert torch.equal(rows.x1[known, 0].long(), rows.label[known])
            assert float((~known).float().mean()) == pytest.approx(0.25, abs=0.06)  # three standard deviations


def rows_of_batch(request: GeneratorRequest, batches: int) -> list[int]:
    """Find the trajectories of the batch behind so many by its states in the store."""
    store = TrajectoryStore.open(request.store)
    drawn: Any = iter(PairStream(store, stream_spec(request), rank=0, world=1))
    with closing(drawn):
        batch = next(islice(drawn, batches, None))
    x, times = store.read_rows(0, request.count), store.plan.times
    found = [(x[:, times.index(t)] == x_t).all(1) for t, x_t in zip(batch.t, batch.x_t, strict=True)]
    return [int(np.flatnonzero(is_it)[0]) for is_it in found]


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint_and_names_step_positions_and_trajectories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that blow up at one step, for each fifth row: after 24 good ones, of which each fourth was kept."""
    (tmp_path / "burst.py").write_text(
        "import torch\ncalls = 0\ndef of(x):\n    global calls\n    calls += 1\n    weight = torch.ones(len(x), 1)\n"
        "    weight[4::5] = float('inf') if calls > 48 else 1.0\n    return weight * x\n"  # twice a step
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    request = generator_request(tmp_path, steps=40)
    request = replace(request, generator=replace(request.generator, features="burst:of"))
    with pytest.raises(FloatingPointError) as caught:
        train_characteristics(request, alone())
    places = "in the batch from epoch 2, position 1344 to epoch 2, position 1600"  # of 4 visits to 600 rows
    found = re.fullmatch(
        rf"generator loss is not finite at step 25, {places}, for trajectories (.*) and (\d+) more; lower .*",
        str(caught.value),
    )
    assert found is not None
    rows = sorted(set(rows_of_batch(request, 24)[4::5]))
    assert found[1] == ", ".join(map(str, rows[:3]))
    assert int(found[2]) == len(rows) - 3
    assert CheckpointFolder(request.place.checkpoints).steps()[-1] == 24
    assert not has_model(request.place.folder)


def test_a_checkpoint_of_another_training_is_refused_with_its_place(tmp_path: Path) -> None:
    request = generator_request(tmp_path, steps=2)
    train_characteristics(request, alone())
    moved = replace(request, place=TrainingPlace(folder=tmp_path / "other", key="h"))
    shutil.copytree(on_disk(request.place.checkpoints), on_disk(moved.place.checkpoints))
    with pytest.raises(
        InputError, match=r"^checkpoint of step 2 in .*/h is another training's: .*; remove that folder$"
    ):
        train_characteristics(moved, alone())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": "math:no"}, r"generator\.features = 'math:no' cannot be imported \(AttributeError: .*PYTHONPATH"),
        ({"diagonal": 1.0, "workers": 3, "batch_size": 96}, r"generator\.workers must divide 8, .*batch_size \(96\)"),
        ({"warm_start": True}, r"generator\.warm_start needs a velocity with kind = network, .* has oracle"),
        ({"network": NetworkSpec(kind="unet")}, r"generator\.network\.kind = unet needs images"),
    ],
)
def test_what_would_fail_in_the_workers_is_refused_before_they_start(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    request = generator_request(tmp_path)
    with pytest.raises(InputError, match=message):
        train_generator(replace(request, generator=replace(request.generator, **changes)), progress=silent)


def test_trajectories_of_other_data_or_another_velocity_are_refused(tmp_path: Path) -> None:
    request = generator_request(tmp_path)
    ingest(DatasetSpec(kind="gaussian", dim=3, count=50), seed=0, path=tmp_path / "other.zarr")
    with pytest.raises(
        InputError, match=r"holds states of shape \[2\], and the data in .*other\.zarr have shape \[3\]"
    ):
        train_generator(replace(request, data=tmp_path / "other.zarr"), progress=silent)
    other = velocity_request(tmp_path)
    other = replace(other, interpolant=InterpolantSpec(kind="vp"), place=TrainingPlace(folder=tmp_path / "vp", key="v"))
    train_velocity(replace(other, velocity=replace(other.velocity, steps=1)), alone())
    warm = replace(request, velocity=tmp_path / "vp", generator=replace(request.generator, warm_start=True))
    with pytest.raises(InputError, match=r"needs a velocity with interpolant = linear, .* has vp"):
        train_generator(warm, progress=silent)


def test_an_oracle_for_a_target_that_has_none_is_refused(tmp_path: Path) -> None:
    request = velocity_request(tmp_path, kind="oracle", dataset=DatasetSpec(kind="moons", count=100))
    with pytest.raises(InputError, match=r"needs dataset\.kind gaussian or mixture, got 'moons'"):
        fit_velocity(request, progress=silent)
