"""The velocity network trained in this process: what it learns, how it resumes, what it refuses."""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from storage.checkpoints import Checkpoint
from storage.data import DataStore, Values
from storage.errors import InputError
from storage.journal import read_journal
from storage.models import read_model
from storage.ordering import Indices
from tasks.facts import Progress, TrainingPlace
from tasks.fit_velocity import (
    VelocityRequest,
    build_stored_denoiser,
    fit_velocity,
    load_velocity,
    train_velocity,
)
from tasks.ingest import ingest
from tasks.measures import held_out, measure_velocity
from tasks.networks.build import build_denoiser
from tasks.rows import RowReader
from tasks.specs import DatasetSpec, GeneratorSpec, InterpolantSpec, NetworkSpec, VelocitySpec
from tasks.training.checkpoint import to_checkpoint, weights_from_bytes
from tasks.training.ddp import Outcome
from tasks.training.device import CPU
from tasks.training.group import Group, alone
from tasks.training.loader import Draw, MatchingBatch, matching_batches, matching_loss
from tasks.training.loop import TrainingState
from tasks.transport.interpolant import Interpolant

SMALL = VelocitySpec(network=NetworkSpec(width=16, depth=2), steps=12, batch_size=32, workers=1, warmup=2, ema=0.9)
MOONS = DatasetSpec(kind="moons", count=200)


def silent(*_: object) -> None:
    pass


def request_of(folder: Path, dataset: DatasetSpec, velocity: VelocitySpec, *, stop: float = 0.9) -> VelocityRequest:
    if not (folder / "data.zarr").exists():
        ingest(dataset, seed=0, path=folder / "data.zarr")
    return VelocityRequest(
        velocity=velocity,
        interpolant=InterpolantSpec(),
        dataset=dataset,
        stop=stop,
        seed=0,
        data=folder / "data.zarr",
        place=TrainingPlace(folder=folder / "velocity", key="v"),
    )


def npz(folder: Path, **arrays: np.ndarray) -> DatasetSpec:
    folder.mkdir(exist_ok=True)
    np.savez(folder / "rows.npz", **arrays)  # type: ignore[arg-type]
    return DatasetSpec(kind="npz", path=str(folder / "rows.npz"), standardise=False)


def two_classes(folder: Path) -> DatasetSpec:
    """Two narrow heaps at -2 and 2, one a class."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 800)
    return npz(folder, x=(4.0 * label[:, None] - 2 + 0.1 * rng.standard_normal((800, 1))), label=label)


def images(folder: Path) -> DatasetSpec:
    return npz(folder, x=np.random.default_rng(0).standard_normal((64, 1, 4, 4)))


def weights(request: VelocityRequest) -> bytes:
    return read_model(request.place.folder).weights


def test_a_conditional_velocity_knows_each_class_and_the_whole(tmp_path: Path) -> None:
    velocity = replace(SMALL, steps=400, batch_size=256, learning_rate=5e-3, warmup=20, conditional=True)
    request = request_of(tmp_path, two_classes(tmp_path / "in"), velocity)
    train_velocity(request, alone())
    model = read_model(request.place.folder)
    assert model.spec["classes"] == 2
    field = build_stored_denoiser(model).requires_grad_(False).eval()
    t, x = torch.tensor(0.02), torch.zeros(2, 1)  # where the state says next to nothing of the class
    both = field.given(torch.tensor([0, 1]), 1.0).denoiser(t, x).flatten()
    assert both.tolist() == pytest.approx([-2, 2], abs=0.25)
    assert field.denoiser(t, x).flatten().tolist() == pytest.approx([0, 0], abs=0.3)
    hidden = field.given(torch.tensor([-1, -1]), 3.0).denoiser(t, x)
    assert torch.equal(hidden, field.denoiser(t, x))


def test_an_unconditional_velocity_says_so_and_ignores_labels(tmp_path: Path) -> None:
    request = request_of(tmp_path, two_classes(tmp_path / "in"), SMALL)
    train_velocity(request, alone())
    assert read_model(request.place.folder).spec["classes"] == 0
    load_velocity(request.place.folder).velocity(torch.tensor(0.5), torch.zeros(3, 1))


def test_each_rank_tells_of_its_steps_and_the_journal_has_those_of_the_first(tmp_path: Path) -> None:
    request = request_of(tmp_path, MOONS, SMALL)
    heard: list[Mapping[str, float]] = []
    train_velocity(request, replace(alone(), tell=heard.append))
    assert sum(record["steps"] for record in heard) == SMALL.steps
    kept = read_journal(request.place.journal)
    assert [(record["step"], record["steps"]) for record in kept] == [(r["step"], r["steps"]) for r in heard]


def test_labels_of_a_dataset_that_has_none_are_refused(tmp_path: Path) -> None:
    request = request_of(tmp_path, MOONS, replace(SMALL, conditional=True))
    for start in (lambda: fit_velocity(request, progress=silent), lambda: train_velocity(request, alone())):
        with pytest.raises(InputError, match=r"velocity\.conditional = true needs labels, .*kind = moons has none"):
            start()
    assert not request.place.folder.exists()


def test_workers_that_do_not_fit_are_refused_before_any_is_started(tmp_path: Path) -> None:
    request = request_of(tmp_path, MOONS, replace(SMALL, workers=3, batch_size=96))
    with pytest.raises(InputError, match=r"velocity\.workers must divide 8, .*, got 3"):
        fit_velocity(request, progress=silent)


def test_a_network_that_cannot_take_the_data_is_refused_by_its_section(tmp_path: Path) -> None:
    request = request_of(tmp_path, MOONS, replace(SMALL, network=NetworkSpec(kind="unet")))
    with pytest.raises(InputError, match=r"^velocity\.network\.kind = unet needs images .*, got states of shape \[2\]"):
        fit_velocity(request, progress=silent)


def test_a_generator_that_cannot_take_the_data_is_refused_before_the_velocity_is_trained(tmp_path: Path) -> None:
    request = request_of(tmp_path, MOONS, SMALL)
    with pytest.raises(
        InputError, match=r"^generator\.network\.kind = unet needs images .*, got states of shape \[2\]"
    ):
        fit_velocity(replace(request, generator=GeneratorSpec(network=NetworkSpec(kind="unet"))), progress=silent)
    with pytest.raises(InputError, match=r"^generator\.features = 'no_such_module:net' cannot be imported "):
        fit_velocity(replace(request, generator=GeneratorSpec(features="no_such_module:net")), progress=silent)
    assert not request.place.folder.exists()


def test_micro_batches_give_the_weights_of_the_whole_batch_up_to_rounding(tmp_path: Path) -> None:
    whole, parts = (
        request_of(
            tmp_path / name, two_classes(tmp_path / name), replace(SMALL, conditional=True, micro_batch_size=size)
        )
        for name, size in (("a", 0), ("b", 5))
    )
    for request in (whole, parts):
        train_velocity(request, alone())
    found, expected = (weights_from_bytes(read_model(r.place.folder).weights) for r in (parts, whole))
    assert weights(whole) != weights(parts)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "conditional"),
    [
        (NetworkSpec(kind="unet", channels=4, multipliers=(1, 2), blocks=1, dropout=0.3), False),
        (NetworkSpec(width=16, depth=2, spectral=True), False),
        (NetworkSpec(width=16, depth=2), True),
    ],
    ids=["dropout", "spectral", "conditional"],
)
def test_an_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: NetworkSpec, conditional: bool
) -> None:
    velocity = replace(SMALL, network=network, conditional=conditional)
    straight, stopped = (
        request_of(tmp_path / name, (two_classes if conditional else images)(tmp_path / name), velocity)
        for name in ("a", "b")
    )
    train_velocity(straight, alone())

    def dying(state: TrainingState) -> Checkpoint:
        if state.step == 7:
            raise KeyboardInterrupt
        return to_checkpoint(state)

    monkeypatch.setattr("tasks.training.fit.to_checkpoint", dying)
    with pytest.raises(KeyboardInterrupt):
        train_velocity(stopped, alone())
    monkeypatch.undo()
    torch.manual_seed(99)  # the global generator has no part in it
    train_velocity(stopped, alone())
    assert weights(straight) == weights(stopped)


def test_dropout_is_in_the_training_and_not_in_what_is_published(tmp_path: Path) -> None:
    network = NetworkSpec(kind="unet", channels=4, multipliers=(1, 2), blocks=1)
    plain, dropping = (
        request_of(tmp_path / name, images(tmp_path / name), replace(SMALL, network=replace(network, dropout=dropout)))
        for name, dropout in (("a", 0.0), ("b", 0.3))
    )
    for request in (plain, dropping):
        train_velocity(request, alone())
    assert weights(plain) != weights(dropping)
    field, x = load_velocity(dropping.place.folder), torch.randn(4, 1, 4, 4)
    assert torch.equal(field.velocity(torch.tensor(0.5), x), field.velocity(torch.tensor(0.5), x))


def test_a_cpu_says_what_it_does_not_do_and_the_summary_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def here(
        worker: object, request: VelocityRequest, *, device: str, progress: Progress, workers: int, **_: object
    ) -> Outcome:
        assert device == "cpu"
        train_velocity(request, alone(CPU))
        return Outcome(startup_seconds=1.5, restarts=2)

    monkeypatch.setattr("tasks.training.ddp.cluster_device", lambda asked, _: {"auto": "cpu"}[asked])
    monkeypatch.setattr("tasks.training.ddp.run_distributed", here)
    request = replace(request_of(tmp_path, MOONS, replace(SMALL, precision="bf16", compile=True)), device="auto")
    with caplog.at_level(logging.WARNING):
        summary = fit_velocity(request, progress=silent)
    assert [record.getMessage() for record in caplog.records] == [
        "velocity.precision = bf16 and velocity.compile = true: for a GPU only; "
        "computing on the CPU in float32, not compiled"
    ]
    assert summary.computed_on == "cpu, float32"
    assert (summary.startup_seconds, summary.restarts) == (1.5, 2)
    caplog.clear()
    assert fit_velocity(request, progress=silent).computed_on == "cpu, float32"  # found, and still known
    assert caplog.records == []


def test_the_mean_of_the_ranks_gradients_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    request = request_of(tmp_path, replace(MOONS, count=203), SMALL)  # streams of unequal length
    store = DataStore(request.data)
    denoiser = build_denoiser(SMALL.network, store.dim, seed=0, interpolant="linear", data_std=store.std)
    torch.nn.init.normal_(denoiser.backbone.output.weight)  # type: ignore[union-attr, arg-type]
    loss = matching_loss(denoiser, Interpolant("linear"), data_std=store.std)
    draw = Draw(seed=0, batch_size=32, stop=0.9, label_dropout=None)

    def gradient(group: Group) -> Tensor:
        denoiser.zero_grad()
        loss(next(matching_batches(store, draw, step=3, group=group))).mean().backward()  # type: ignore[no-untyped-call]
        return torch.cat([p.grad.flatten() for p in denoiser.parameters() if p.grad is not None])

    ranks = [gradient(Group(rank=rank, world=4, average=lambda _: None)) for rank in range(4)]
    torch.testing.assert_close(torch.stack(ranks).mean(0), gradient(alone()), rtol=1e-4, atol=1e-6)


def test_a_rows_loss_counts_by_its_weight() -> None:
    denoiser = build_denoiser(SMALL.network, (3,), seed=0, interpolant="linear", data_std=1.0).requires_grad_(False)
    loss = matching_loss(denoiser, Interpolant("linear"), data_std=1.0)
    x0, x1 = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    batch = MatchingBatch(t=torch.tensor([0.2, 0.7]), x0=x0, x1=x1, weight=torch.tensor([1.5, 0.5]), label=None)
    torch.testing.assert_close(loss(batch), batch.weight * loss(replace(batch, weight=torch.ones(2))))


def test_a_loss_that_is_not_finite_names_the_data_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 12 of the data, spoilt on its way out of the store, comes up in the last part of the first epoch."""
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    take = RowReader.take

    def spoilt(self: RowReader, rows: Indices) -> Values:
        return np.where((rows == 12)[:, None], np.float32("nan"), take(self, rows))

    monkeypatch.setattr(RowReader, "take", spoilt)
    request = request_of(tmp_path, npz(tmp_path / "rows", x=x), replace(SMALL, batch_size=4))
    words = r"velocity loss is not finite at step \d+, for data rows 12, whose own values are not finite; the last good"
    with pytest.raises(FloatingPointError, match=words):
        train_velocity(request, alone())


@pytest.mark.slow
@pytest.mark.parametrize(("std", "floor"), [(1.0, math.pi / 2), (2.0, math.pi)])
def test_the_loss_on_a_gaussian_ends_within_two_percent_above_its_floor(
    tmp_path: Path, std: float, floor: float
) -> None:
    """Linear interpolant, T = 1: the floor is sigma pi / 2 a dimension (METHOD, section 4), and none may beat it."""
    dataset = DatasetSpec(kind="gaussian", mean=(1.5, -1.0), std=std, count=50_000, standardise=False)
    velocity = VelocitySpec(
        network=NetworkSpec(width=32, depth=2),
        steps=600,
        batch_size=1024,
        learning_rate=5e-3,
        workers=1,
        warmup=40,
        ema=0.99,
    )
    request = request_of(tmp_path, dataset, velocity, stop=1.0)
    train_velocity(request, alone())
    data, interpolant = DataStore(request.data), Interpolant("linear")
    pairs = held_out(dataset, data, interpolant=interpolant, stop=1.0, samples=30_000, seed=1, classes=0)
    field = load_velocity(request.place.folder)
    loss, least, error = measure_velocity(field, pairs, interpolant=interpolant, device=CPU)
    assert least.value == pytest.approx(floor, rel=1e-10)
    assert loss.n == 300_000
    assert loss.value > floor - 3 * loss.standard_error
    assert loss.value < 1.02 * floor + 3 * loss.standard_error
    assert loss.standard_error < 0.004 * floor  # or the bounds above would say nothing
    # the same statement without the noise of the pairs: the excess over the floor is the squared error
    assert error.value**2 < 0.002 * floor  # 30 steps leave 0.006 and more
