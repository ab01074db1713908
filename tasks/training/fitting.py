"""What a generator is fitted to, batch by batch: pairs of stored points and, where asked for, rows of the data."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.networks.generator import Generator
from tasks.specs import GeneratorSpec
from tasks.training.features import Features, feature_error
from tasks.training.loader import MatchingBatch, matching_loss
from tasks.transport.losses import (
    RowError,
    TwoTimeMap,
    characteristic_fitting_loss,
    pseudo_huber,
    semigroup_loss,
    squared_error,
)


@dataclass(frozen=True, kw_only=True)
class TorchPairs:
    """A :class:`~storage.stream.PairBatch` as tensors of the network's type."""

    x_t: Tensor  # [batch, *dim]
    x_s: Tensor  # [batch, *dim]
    t: Tensor  # [batch]
    s: Tensor  # [batch]
    label: Tensor | None  # [batch] int64; -1: none
    r: Tensor | None = None  # [batch] between t and s, where the semigroup penalty is taken
    diagonal: MatchingBatch | None = None  # as many rows of the data, where the denoiser loss is taken


def labelled(generator: Generator, label: Tensor | None) -> TwoTimeMap:
    """Give the map (t, s, x) of a batch whose rows have these labels, int64 ``[batch]``; None: no labels."""
    return lambda t, s, x: torch.as_tensor(generator(t, s, x, label))


def fitting_loss(
    generator: Generator, spec: GeneratorSpec, *, features: Features | None = None
) -> Callable[[TorchPairs], Tensor]:
    """Give the loss of a batch: of each row, ``[batch]``, the mean over dimensions, on the batch's device.

    Args:
        generator: that is fitted.
        spec: which error, and the weights of what is added.
        features: a map of states; the squared error of a pair's features is added to that of its states.
    """
    matching = matching_loss(generator.denoiser, generator.interpolant, data_std=generator.data_std)
    error = pair_error(spec, features)

    def loss(batch: TorchPairs) -> Tensor:
        given = labelled(generator, batch.label)
        total = characteristic_fitting_loss(given, t=batch.t, s=batch.s, x_t=batch.x_t, x_s=batch.x_s, error=error)
        if batch.r is not None:
            penalty = semigroup_loss(given, t=batch.t, r=batch.r, s=batch.s, x_t=batch.x_t, x_s=batch.x_s, error=error)
            total = total + spec.semigroup * penalty
        if batch.diagonal is not None:
            total = total + spec.diagonal * matching(batch.diagonal)
        return total

    return loss


def pair_error(spec: GeneratorSpec, features: Features | None) -> RowError:
    """Give the error of each row, ``[batch]``, a coordinate: in units of its square, for ``huber`` of its size."""

    def error(prediction: Tensor, target: Tensor) -> Tensor:
        size = target[0].numel()
        if spec.loss == "huber":
            rows = pseudo_huber(prediction, target) / math.sqrt(size)
        else:
            rows = squared_error(prediction, target) / size
        if features is None:
            return rows
        return rows + spec.features_weight * feature_error(features, prediction, target)

    return error
