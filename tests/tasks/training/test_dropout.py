"""Dropout's masks: other ones each step and rank, the same ones on resume, and no trace in the global generator."""

import torch
from torch import Tensor, nn

from tasks.networks.ema import MovingAverage
from tasks.training.adam import Adam
from tasks.training.dropout import mask_seed, reproducible
from tasks.training.group import Group, alone
from tasks.training.loop import TrainingState

LAYER = nn.Dropout(0.5)


def state(step: int) -> TrainingState:
    model = nn.Linear(1, 1)
    average = MovingAverage(model, decay=0.9)
    return TrainingState(model=model, average=average, optimiser=Adam(model.parameters()), step=step)


def masked(x: Tensor) -> Tensor:
    return torch.as_tensor(LAYER(x))


def mask(step: int, *, rank: int = 0, seed: int = 3) -> tuple[float, ...]:
    group = Group(rank=rank, world=2, average=lambda _: None)
    return tuple(reproducible(masked, state(step), seed=seed, group=group, dropout=0.5)(torch.ones(64)).tolist())


def test_masks_are_a_function_of_seed_step_and_rank() -> None:
    masks = [mask(1), mask(2), mask(1, rank=1), mask(1, seed=4)]
    assert len(set(masks)) == 4
    torch.manual_seed(8)
    assert mask(1) == masks[0]
    assert mask_seed(2**63 - 1, step=10**9, rank=7) != mask_seed(2**63 - 2, step=10**9, rank=7)


def test_the_global_generator_is_left_as_it_was() -> None:
    backward = reproducible(masked, state(5), seed=3, group=alone(), dropout=0.5)
    before = torch.random.get_rng_state()
    backward(torch.ones(64))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_network_without_dropout_costs_nothing_more() -> None:
    assert reproducible(masked, state(0), seed=0, group=alone(), dropout=0.0) is masked
