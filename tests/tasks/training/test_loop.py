"""The training loop: its schedule, its exact resumption, its refusal of a loss that is not finite."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from storage.checkpoints import Checkpoint
from tasks.specs import OptimiserSpec
from tasks.training.backward import backward
from tasks.training.checkpoint import restore, to_checkpoint, weights_from_bytes, weights_to_bytes
from tasks.training.failure import GradientError, LossError, Numbering
from tasks.training.loop import MisfitError, TrainingState, _clip, _flat_gradient, begin, learning_rate, train

SPEC = OptimiserSpec(
    section="velocity",
    steps=30,
    batch_size=16,
    learning_rate=1e-2,
    workers=1,
    warmup=5,
    ema=0.9,
    clip=1.0,
)


NUMBERING = Numbering(what="rows", at=lambda behind, _: np.arange(16) + 100 * behind)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3))


def batches(step: int) -> Iterator[Tensor]:
    while True:
        yield torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
        step += 1


def errors(model: nn.Module, batch: Tensor, target: Tensor) -> Tensor:
    """Give the mean square error of each row, ``[batch]``."""
    return torch.as_tensor((model(batch) - target).square().mean(1))


def run(state: TrainingState, spec: OptimiserSpec, *, every: int = 10) -> tuple[list[dict[str, float]], list[int]]:
    logs: list[dict[str, float]] = []
    kept: list[int] = []

    def loss(batch: Tensor) -> Tensor:
        return errors(state.model, batch, 2 * batch)

    train(
        state,
        batches(state.step),
        partial(backward, loss),
        spec,
        average=lambda _: None,
        place=lambda: {"position": 7},
        numbering=NUMBERING,
        log=logs.append,
        checkpoint=lambda s: kept.append(s.step),
        every=every,
    )
    return logs, kept


def test_the_rate_rises_evenly_to_its_peak_and_falls_to_nothing() -> None:
    rates = [learning_rate(step, SPEC) for step in range(SPEC.steps)]
    assert rates[:5] == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3, 1e-2])
    assert rates[5] == pytest.approx(1e-2)
    assert all(later < earlier for earlier, later in pairwise(rates[5:]))
    assert learning_rate(SPEC.steps, SPEC) == pytest.approx(0, abs=1e-12)
    middle = (SPEC.steps + SPEC.warmup) / 2
    assert 0.45e-2 < learning_rate(int(middle), SPEC) < 0.55e-2


def test_training_lowers_the_loss_and_checkpoints_when_asked() -> None:
    state = begin(network(), replace(SPEC, steps=200))
    logs, kept = run(state, replace(SPEC, steps=200), every=60)
    assert kept == [60, 120, 180, 200]
    assert state.step == 200
    assert state.place == {"position": 7}
    assert logs[-1]["step"] == 200
    fresh = next(batches(10**6))
    assert nn.functional.mse_loss(state.model(fresh), 2 * fresh) < 0.5  # the untrained network has about 4


def test_a_resumed_training_ends_with_the_very_same_weights() -> None:
    straight = begin(network(), SPEC)
    run(straight, SPEC)
    first = begin(network(), SPEC)
    # stop in the middle of the same schedule
    half = _stop_at(first, 13)
    second = begin(network(), SPEC)
    restore(second, half)
    assert second.step == 13
    run(second, SPEC)
    for name, value in straight.average.weights.items():
        assert torch.equal(value, second.average.weights[name])
    for a, b in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_more_than_so_many_seconds_are_without_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.training.loop.CHECKPOINT_SECONDS", 0.0)
    _, kept = run(begin(network(), SPEC), SPEC, every=20)
    assert kept == list(range(1, 31))


class _StopHereError(Exception):
    pass


def _stop_at(state: TrainingState, step: int) -> Checkpoint:
    found: list[Checkpoint] = []

    def loss(batch: Tensor) -> Tensor:
        return errors(state.model, batch, 2 * batch)

    def checkpoint(reached: TrainingState) -> None:
        if reached.step == step:
            found.append(to_checkpoint(reached))
            raise _StopHereError

    with pytest.raises(_StopHereError):
        train(
            state,
            batches(0),
            partial(backward, loss),
            SPEC,
            average=lambda _: None,
            place=dict,
            numbering=NUMBERING,
            log=lambda _: None,
            checkpoint=checkpoint,
            every=1,
        )
    return found[0]


def test_a_loss_that_is_not_finite_stops_the_training_and_names_step_and_rows() -> None:
    state = begin(network(), SPEC)

    def loss(batch: Tensor) -> Tensor:
        losses = errors(state.model, batch, batch)
        return losses * torch.where(torch.arange(16) % 3 == 2, torch.nan, 1.0) if state.step == 3 else losses

    words = r"velocity loss is not finite at step 4, for rows 302, 305, 308 and 2 more; .*learning_rate \(0\.01\)"
    with pytest.raises(LossError, match=words):
        train_with(state, loss, every=10)


def test_a_gradient_that_is_not_finite_stops_the_training_as_well() -> None:
    state = begin(network(), SPEC)
    seen: list[Tensor] = []

    def loss(batch: Tensor) -> Tensor:
        losses = errors(state.model, batch, batch)
        seen.append(losses.detach())
        return losses + (0 * losses).sqrt() if state.step == 3 else losses  # the root of 0 has an infinite slope

    with pytest.raises(GradientError) as caught:
        train_with(state, loss, every=10)
    largest = ", ".join(str(300 + int(row)) for row in torch.argsort(seen[-1], descending=True)[:3])
    assert f"gradient is not finite at step 4, where rows {largest} have the largest losses; " in str(caught.value)


@pytest.mark.parametrize("is_far", [False, True])
def test_the_batch_in_question_is_named_by_its_places(is_far: bool) -> None:
    """On a GPU, which is looked at now and then, too: those of the first batch that was bad."""
    state = begin(network(), SPEC)
    place = {"epoch": 0, "position": 0}

    def drawn() -> Iterator[Tensor]:
        for batch in batches(0):
            place["position"] += 16
            yield batch

    def loss(batch: Tensor) -> Tensor:
        losses = errors(state.model, batch, batch)
        losses = losses * float("nan") if state.step == 13 else losses
        return losses.as_subclass(_Far) if is_far else losses

    with pytest.raises(FloatingPointError) as caught:
        train(
            state,
            drawn(),
            partial(backward, loss),
            SPEC,
            average=lambda _: None,
            place=lambda: dict(place),
            numbering=NUMBERING,
            log=lambda _: None,
            checkpoint=lambda _: None,
            every=10,
        )
    places = "in the batch from epoch 0, position 208 to epoch 0, position 224, for rows 1300, 1301, 1302 and 13 more"
    assert f"velocity loss is not finite at step 14, {places}; lower velocity.learning_rate" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "width", "message"),
    [("b", 8, "it was written for the key a, not for b"), ("a", 9, r"0\.bias has shape \[8\], not \[9\]")],
)
def test_a_checkpoint_of_another_training_is_refused_and_changes_nothing(key: str, width: int, message: str) -> None:
    checkpoint = to_checkpoint(begin(network(), SPEC, key="a"))
    state = begin(nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, 3)), SPEC, key=key)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    with pytest.raises(MisfitError, match=message):
        restore(state, checkpoint)
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())


def test_a_checkpoint_that_was_written_before_there_were_keys_is_read() -> None:
    older = begin(network(), SPEC).state_dict()
    del older["key"]
    state = begin(network(), SPEC, key="a")
    state.load_state_dict(older)
    assert state.key == "a"


class _Far(Tensor):
    """A number that says it is on a GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")


def test_a_gpu_is_looked_at_before_a_checkpoint_not_each_step() -> None:
    state = begin(network(), SPEC)
    kept: list[int] = []
    begun: list[int] = []

    def loss(batch: Tensor) -> Tensor:
        losses = errors(state.model, batch, batch)
        begun.append(state.step)
        return (losses * float("nan") if state.step == 13 else losses).as_subclass(_Far)

    with pytest.raises(FloatingPointError, match="not finite at step 14"):
        train_with(state, loss, every=10, kept=kept)
    assert kept == [10]
    assert begun[-1] == 19  # so it went on until then


def train_with(
    state: TrainingState, loss: Callable[[Tensor], Tensor], *, every: int, kept: list[int] | None = None
) -> None:
    train(
        state,
        batches(state.step),
        partial(backward, loss),
        SPEC,
        average=lambda _: None,
        place=dict,
        numbering=NUMBERING,
        log=lambda _: None,
        checkpoint=lambda s: None if kept is None else kept.append(s.step),
        every=every,
    )


def test_the_gradient_is_clipped_to_the_asked_norm() -> None:
    state = begin(network(), replace(SPEC, clip=1e-3, steps=1))
    norms: list[float] = []
    step = state.optimiser.step

    def watched(rate: float) -> None:
        norms.append(float(torch.stack([p.grad.norm() for p in state.model.parameters() if p.grad is not None]).norm()))
        step(rate)

    state.optimiser.step = watched  # type: ignore[method-assign]
    run(state, replace(SPEC, clip=1e-3, steps=1))
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("most", [1e-3, 1e3])
def test_a_flat_gradient_is_clipped_as_torch_clips_many(most: float) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 3)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model[1].bias.requires_grad_(False)
    model(torch.randn(4, 2, 9, 9, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    parameters = list(model.parameters())
    before = [None if p.grad is None else p.grad.clone() for p in parameters]
    norm = _clip(_flat_gradient(parameters), most)
    ours = [p.grad for p in parameters]
    for p, gradient in zip(parameters, before, strict=True):
        p.grad = gradient
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(parameters, most))
    torch.testing.assert_close(ours, [p.grad for p in parameters])


def test_weights_travel_as_safetensors_unchanged() -> None:
    weights = {name: value.clone() for name, value in network().state_dict().items()}
    back = weights_from_bytes(weights_to_bytes(weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
