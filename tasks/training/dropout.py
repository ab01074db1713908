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
Loss = Callable[[Batch], Tensor]

_DROPOUT = 2  # last word of the counter; training uses 0 to 3 (loader.py)


def reproducible(loss: Loss[Batch], state: TrainingState, *, seed: int, group: Group, dropout: float) -> Loss[Batch]:
    """Give the loss, computed under a generator that is set anew each step; as it is for a network without dropout."""
    return partial(_seeded, loss, state, seed, group) if dropout > 0 else loss


def _seeded(loss: Loss[Batch], state: TrainingState, seed: int, group: Group, batch: Batch) -> Tensor:
    # torch's dropout draws from the global generator, which is put back: masks are drawn in the forward pass only
    with torch.random.fork_rng(devices=[group.device] if group.device.type == "cuda" else []):
        torch.manual_seed(mask_seed(seed, step=state.step, rank=group.rank))
        return loss(batch)


def mask_seed(seed: int, *, step: int, rank: int) -> int:
    """Give the seed of one step's masks of one rank."""
    key = np.array([seed, TRAINING], np.uint64)
    return int(np.random.Philox(key=key, counter=[0, step, rank, _DROPOUT]).random_raw())
