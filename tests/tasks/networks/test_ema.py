"""The moving average: its arithmetic, step by step."""

import pytest
import torch
from torch import nn

from tasks.networks.ema import MovingAverage
from tasks.networks.mlp import Mlp


def scalar(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    model.weight.data.fill_(value)
    return model


def test_it_starts_at_the_present_weights_and_owns_its_copy() -> None:
    model = scalar(3.0)
    average = MovingAverage(model, decay=0.9)
    model.weight.data.fill_(7.0)
    assert average.weights["weight"].item() == 3.0
    assert not average.weights["weight"].requires_grad


def test_the_first_updates_follow_the_warm_up_of_the_decay() -> None:
    """Decays 1/10, 2/11, 3/12: from 0 toward 1 the distance is their product."""
    average = MovingAverage(scalar(0.0), decay=0.9)
    for step in range(3):
        average.update(scalar(1.0), step=step)
    assert average.weights["weight"].item() == pytest.approx(1 - 1 / 10 * 2 / 11 * 3 / 12, rel=1e-14)


def test_late_updates_use_the_final_decay() -> None:
    average = MovingAverage(scalar(2.0), decay=0.9)
    average.update(scalar(3.0), step=80)  # (1 + 80)/(10 + 80) = 0.9 exactly where the two meet
    assert average.weights["weight"].item() == pytest.approx(2.1, rel=1e-14)
    average.update(scalar(2.1), step=10**6)
    assert average.weights["weight"].item() == pytest.approx(2.1, rel=1e-14)
    average.update(scalar(3.1), step=10**6)
    assert average.weights["weight"].item() == pytest.approx(2.2, rel=1e-14)


def test_a_decay_of_zero_keeps_the_last_weights() -> None:
    average = MovingAverage(scalar(2.0), decay=0.0)
    average.update(scalar(5.0), step=10)
    assert average.weights["weight"].item() == 5.0


def test_the_followed_model_is_not_touched() -> None:
    model = scalar(1.0)
    MovingAverage(scalar(0.0), decay=0.5).update(model, step=100)
    assert model.weight.item() == 1.0
    assert model.weight.grad is None


def test_every_weight_is_averaged_and_what_is_not_learned_stays() -> None:
    first, second = (Mlp((2,), width=8, depth=2, fourier=3) for _ in range(2))
    second.load_state_dict(first.state_dict())
    for parameter in second.parameters():
        parameter.data = parameter.data + 1
    average = MovingAverage(first, decay=0.75)
    average.update(second, step=1000)
    for name, value in first.state_dict().items():
        shift = 0.0 if name == "frequencies" else 0.25
        torch.testing.assert_close(average.weights[name], value + shift, rtol=1e-5, atol=1e-6)
