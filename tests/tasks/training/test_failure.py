"""What is said of a batch that was not finite: the rows that spoilt it, or those whose losses are worst."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from storage.ordering import Indices
from tasks.specs import OptimiserSpec
from tasks.training.failure import GradientError, LossError, Numbering, Taken, failure, mean_losses

SPEC = OptimiserSpec(
    section="generator", steps=9, batch_size=4, learning_rate=0.5, workers=1, warmup=0, ema=0.0, clip=1.0
)
ROWS = np.array([17, 905, 4, 12])
INF, NAN = float("inf"), float("nan")


@dataclass(frozen=True)
class Batch:
    x: Tensor
    label: Tensor
    more: "Batch | None" = None


def batch_of(x: Tensor, more: Batch | None = None) -> Batch:
    return Batch(x, torch.tensor([-1, 0, 1, 2]), more)


def told(losses: list[float], batch: object = None, *, rows: Indices = ROWS) -> LossError | GradientError:
    taken = Taken(step=8, place={"epoch": 1, "position": 6}, losses=torch.tensor(losses), norm=torch.tensor(NAN))
    numbering = Numbering(what="trajectories", at=lambda behind, place: {(7, 6): rows}[behind, place["position"]])
    return failure(taken, stop={"epoch": 1, "position": 10}, batch=batch, numbering=numbering, spec=SPEC)


@pytest.mark.parametrize("bad", [INF, NAN])
def test_rows_whose_loss_is_not_finite_are_named_ascending_with_the_remedy(bad: float) -> None:
    error = told([bad, bad, 1.0, bad], batch_of(torch.ones(4, 3)))
    assert isinstance(error, LossError)
    assert str(error) == (
        "generator loss is not finite at step 8, in the batch from epoch 1, position 6 to epoch 1, position 10, for "
        "trajectories 12, 17, 905; lower generator.learning_rate (0.5); the last good checkpoint is kept"
    )


@pytest.mark.parametrize("is_inside", [False, True])
def test_rows_whose_own_values_are_not_finite_are_named_before_all_others(is_inside: bool) -> None:
    good, bad = torch.ones(4, 3, 2), torch.ones(4, 3, 2)
    bad[2, 1, 0] = INF
    batch = batch_of(good, batch_of(bad)) if is_inside else batch_of(bad)
    error = told([NAN] * 4, batch)
    assert isinstance(error, LossError)
    words = "for trajectories 4, whose own values are not finite; the last good checkpoint is kept"
    assert str(error).endswith(f"position 10, {words}")


def test_a_few_rows_are_named_each_once_and_the_others_counted() -> None:
    assert ", for trajectories 1, 2, 3 and 1 more; lower" in str(told([NAN] * 5, rows=np.array([4, 2, 3, 1, 2])))
    many = str(told([NAN] * 1500, rows=np.arange(1500)))
    assert ", for trajectories 0, 1, 2 and 1,497 more; lower" in many


def test_where_the_losses_are_finite_the_largest_are_named_first() -> None:
    error = told([1.0, 3.0, 9.0, 2.0], batch_of(torch.ones(4, 1)))
    assert isinstance(error, GradientError)
    assert "generator gradient is not finite at step 8, in the batch from epoch 1, position 6 to " in str(error)
    assert ", where trajectories 4, 905, 12 have the largest losses; lower generator.learning_rate (0.5)" in str(error)


@pytest.mark.parametrize(
    ("losses", "norms", "first"),
    [([1, 2, 3], [1, 1, 1], None), ([1, NAN, NAN], [1, NAN, NAN], 1), ([1, 2, INF], [INF, 1, 1], 0)],
)
def test_the_first_step_that_was_not_finite_is_found_in_losses_or_gradients(
    losses: list[float], norms: list[float], first: int | None
) -> None:
    steps = [
        Taken(step=k + 1, place={}, losses=torch.tensor([1.0, loss]), norm=torch.tensor(float(norm)))
        for k, (loss, norm) in enumerate(zip(losses, norms, strict=True))
    ]
    means, found = mean_losses(steps)
    assert found == first
    if first is None:
        assert means == [1.0, 1.5, 2.0]
