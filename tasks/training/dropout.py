"""Dropout whose masks are a function of (seed, step, rank), so that a training resumes to the same bits."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tasks.training.group import Group
from tasks.training.loop import TrainingState
from tasks.transport.noise import TRAINING

Batch = TypeVar("Batch")
Backward = Callable[[Batch], Tensor]

_DROPOUT = 2  # last word of the counter; training uses 0 to 3 (loader.py)


def reproducible(
    backward: Backward[Batch], state: TrainingState, *, seed: int, group: Group, dropout: float
) -> Backward[Batch]:
    """Give a step's passes under a generator that is set anew each step; as they are for a network without dropout."""
    return partial(_seeded, backward, state, seed, group) if dropout > 0 else backward


def _seeded(backward: Backward[Batch], state: TrainingState, seed: int, group: Group, batch: Batch) -> Tensor:
    # torch's dropout draws from the global generator, which is put back
    with torch.random.fork_rng(devices=[group.device] if group.device.type == "cuda" else []):
        torch.manual_seed(mask_seed(seed, step=state.step, rank=group.rank))
        return backward(batch)


def mask_seed(seed: int, *, step: int, rank: int) -> int:
    """Give the seed of one step's masks of one rank."""
    key = np.array([seed, TRAINING], np.uint64)
    return int(np.random.Philox(key=key, counter=[0, step, rank, _DROPOUT]).random_raw())
