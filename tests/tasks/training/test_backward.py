"""Gradients of a batch in parts: the same sum as at once, from no more rows at a time than were asked for."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tasks.training.backward import backward, map_tensors


@dataclass(frozen=True)
class Batch:
    x: Tensor
    label: Tensor | None = None
    name: str = "kept"


@dataclass(frozen=True)
class Pair:
    name: str
    first: Batch
    second: Batch | None = None


def rows(count: int) -> Batch:
    return Batch(torch.randn(count, 3, generator=torch.Generator().manual_seed(1)).double())


@pytest.mark.parametrize("size", [1, 4, 5, 10, 64])
def test_parts_have_the_losses_and_the_gradient_of_the_whole(size: int) -> None:
    torch.manual_seed(0)
    model, seen = nn.Linear(3, 3).double(), []

    def loss(batch: Batch) -> Tensor:
        seen.append(len(batch.x))
        assert (batch.label, batch.name) == (None, "kept")
        return torch.as_tensor((model(batch.x) ** 4).mean(1))

    whole = backward(loss, rows(10))
    assert not whole.requires_grad
    gradient = model.weight.grad
    assert gradient is not None
    model.weight.grad = None
    parts = backward(loss, rows(10), rows=size)
    assert seen[0] == 10
    assert max(seen[1:]) == min(size, 10)
    assert sum(seen[1:]) == 10
    assert whole.shape == (10,)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(model.weight.grad, gradient, rtol=1e-12, atol=1e-15)


def test_gradients_add_to_what_is_there() -> None:
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        backward(lambda batch: batch.x @ weight, rows(6), rows=4)
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, 2 * rows(6).x.mean(0))


def test_every_tensor_is_cut_alike() -> None:
    found = map_tensors(Batch(torch.arange(4.0), torch.arange(4)), lambda x: x[1:3])
    assert found.x.tolist() == found.label.tolist() == [1, 2]


def test_tensors_of_batches_inside_a_batch_are_cut_as_well() -> None:
    found = map_tensors(Pair("pair", Batch(torch.arange(4.0))), lambda x: x[1:3])
    assert found.first.x.tolist() == [1, 2]
    assert (found.name, found.first.name, found.second) == ("pair", "kept", None)
