"""One training loop for both networks, without a framework: batches and gradients go in, averaged weights come out.

Everything random is a function of (seed, step, rank), so a state of tensors and a step resume it to the same bits.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tasks.networks.ema import MovingAverage
from tasks.specs import OptimiserSpec
from tasks.training.adam import Adam
from tasks.training.failure import Numbering, Taken, failure, mean_losses

Batch = TypeVar("Batch")
Log = Callable[[dict[str, float]], None]

LOG_SECONDS = 1.0
CHECKPOINT_SECONDS = 300.0  # a day's training loses no more than that


class MisfitError(ValueError):
    """A checkpoint is not one of this training."""


@dataclass(kw_only=True)
class TrainingState:
    """What a training changes; ``step`` optimiser steps are behind it."""

    model: nn.Module
    average: MovingAverage
    optimiser: Adam
    step: int = 0
    place: Mapping[str, Any] = field(default_factory=dict)  # where the data stream stands
    key: str = ""  # of what is trained

    def state_dict(self) -> dict[str, Any]:
        """Give everything a checkpoint needs."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.weights,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "place": self.place,
            "key": self.key,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint; one that was written before there were keys says nothing of its own.

        Raises:
            MisfitError: it was written for another key, or for another model; nothing is changed.
        """
        if state.get("key", self.key) != self.key:
            raise MisfitError(f"it was written for the key {state['key']}, not for {self.key}")
        mine, its = ({name: list(x.shape) for name, x in s.items()} for s in (self.model.state_dict(), state["model"]))
        misfit = sorted(name for name in mine.keys() | its.keys() if mine.get(name) != its.get(name))
        if misfit:
            raise MisfitError(f"{misfit[0]} has shape {its.get(misfit[0])}, not {mine.get(misfit[0])}")
        self.model.load_state_dict(state["model"])
        self.average.weights = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.place = state["place"]


def begin(model: nn.Module, spec: OptimiserSpec, *, key: str = "") -> TrainingState:
    """Give the state before the first step of what is trained under that key."""
    average = MovingAverage(model, decay=spec.ema)
    return TrainingState(model=model, average=average, optimiser=Adam(model.parameters()), key=key)


def learning_rate(step: int, spec: OptimiserSpec) -> float:
    """Give the rate of a step: linear warm-up, then a cosine that ends at zero."""
    if step < spec.warmup:
        return spec.learning_rate * (step + 1) / spec.warmup
    share = (step - spec.warmup) / max(1, spec.steps - spec.warmup)
    return spec.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def train(
    state: TrainingState,
    batches: Iterator[Batch],
    backward: Callable[[Batch], Tensor],
    spec: OptimiserSpec,
    *,
    average: Callable[[Tensor], None],
    place: Callable[[], Mapping[str, Any]],
    numbering: Numbering,
    log: Log,
    checkpoint: Callable[[TrainingState], None],
    every: int,
) -> None:
    """Take the optimiser from ``state.step`` to ``spec.steps``.

    Args:
        state: changed in place.
        batches: this rank's part of each global batch, from ``state.place`` on.
        backward: adds the gradients of the mean loss over this rank's batch, and gives the loss of each row,
            ``[batch]``, detached.
        spec: the knobs.
        average: replaces the gradient, one flat vector, by its mean over all ranks.
        place: where ``batches`` stands after the batch last taken.
        numbering: which rows a batch has, should they have to be named.
        log: called about once a second with step, and since the last call: steps, mean loss, rate, share of waiting.
            Only then, and before a checkpoint, is a GPU waited for.
        checkpoint: called every ``every`` steps, ``CHECKPOINT_SECONDS`` after the last and at the end.
        every: steps between checkpoints, at most.

    Raises:
        FloatingPointError: the loss or its gradient is not finite; the last checkpoint is untouched.
    """
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    started = kept = time.monotonic()
    meter = _Meter()
    unseen: list[Taken] = []  # steps since anyone looked
    while state.step < spec.steps:
        began, start = time.monotonic(), place()
        batch = next(batches)
        meter.waited += time.monotonic() - began
        state.optimiser.clear()
        losses = backward(batch)
        gradient = _flat_gradient(parameters)
        average(gradient)
        norm = _clip(gradient, spec.clip)
        state.optimiser.step(learning_rate(state.step, spec))
        state.average.update(state.model, step=state.step)
        state.step += 1
        state.place = place()
        unseen.append(Taken(step=state.step, place=start, losses=losses, norm=norm))
        is_last = state.step == spec.steps
        is_logged = meter.seconds >= LOG_SECONDS or is_last
        is_kept = state.step % every == 0 or is_last or time.monotonic() - kept >= CHECKPOINT_SECONDS
        if is_logged or is_kept or losses.device.type == "cpu":  # where to look costs nothing
            means, failed = mean_losses(unseen)
            if failed is not None:
                first, later = unseen[failed], unseen[failed + 1 :]
                raise failure(
                    first,
                    stop=later[0].place if later else state.place,
                    batch=None if later else batch,
                    numbering=numbering,
                    spec=spec,
                )
            meter.add(means)
            unseen.clear()
        if is_logged:
            log(meter.report(state.step) | {"elapsed": time.monotonic() - started})
            meter = _Meter()
        if is_kept:
            checkpoint(state)
            kept = time.monotonic()


def _flat_gradient(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Give the gradients as one vector, of which those of the parameters are views from now on.

    One exchange, one norm and one scaling: for dozens of parameters apart they take about twice as long.
    """
    with_one = [p for p in parameters if p.grad is not None]
    flat = torch.cat([p.grad.reshape(-1) for p in with_one if p.grad is not None])
    for p, gradient in zip(with_one, torch.split(flat, [p.numel() for p in with_one]), strict=True):
        p.grad = gradient.view_as(p)
    return flat


def _clip(gradient: Tensor, most: float) -> Tensor:
    """Scale a gradient down to a norm of at most so much, and give the norm that it had, 0-d."""
    norm: Tensor = torch.linalg.vector_norm(gradient)
    gradient *= (most / (norm + 1e-6)).clamp(max=1.0)
    return norm


class _Meter:
    """Means since the last log line."""

    def __init__(self) -> None:
        self.waited = 0.0  # seconds
        self._began = time.monotonic()
        self._total = 0.0  # of losses
        self._steps = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def add(self, losses: Sequence[float]) -> None:
        self._total += sum(losses)
        self._steps += len(losses)

    def report(self, step: int) -> dict[str, float]:
        seconds = self.seconds
        return {
            "step": step,
            "steps": self._steps,
            "loss": self._total / self._steps,
            "steps_per_second": self._steps / seconds,
            "wait_share": self.waited / seconds,
        }
