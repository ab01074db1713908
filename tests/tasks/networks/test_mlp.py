"""The perceptron: shapes, what a fresh one gives, and that every input counts."""

import pytest
import torch
from torch import Tensor, nn

from tasks.networks.mlp import Mlp


def perceptron(dim: tuple[int, ...] = (3,), *, fourier: int = 0, two_times: bool = False, classes: int = 0) -> Mlp:
    """A perceptron whose every weight counts."""
    net = Mlp(dim, width=16, depth=2, fourier=fourier, two_times=two_times, classes=classes).double()
    rng = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, dtype=torch.float64, generator=rng)
    return net.requires_grad_(False)


def states(rows: int, *dim: int) -> Tensor:
    return torch.randn(rows, *dim, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("fourier", [0, 7])
@pytest.mark.parametrize("dim", [(1,), (3,), (2, 4), (1, 8, 8)])
def test_the_output_has_the_shape_of_the_state(dim: tuple[int, ...], fourier: int) -> None:
    net, x = perceptron(dim, fourier=fourier), states(5, *dim)
    assert net(x, torch.tensor(0.3)).shape == x.shape
    assert net(x, torch.linspace(0, 1, 5)).shape == x.shape


def test_a_fresh_network_gives_zeros() -> None:
    """So that training starts at the linear denoiser, the best one for a Gaussian."""
    net = Mlp((3,), width=16, depth=2, fourier=5, two_times=True)
    assert not net(torch.ones(4, 3), torch.tensor(0.3), torch.tensor(0.8)).any()


@pytest.mark.parametrize("fourier", [0, 7])
def test_state_and_both_times_count(fourier: int) -> None:
    net, x = perceptron(fourier=fourier, two_times=True), states(4, 3)
    t, s = torch.tensor(0.3), torch.tensor(0.8)
    for other in (net(x + 0.1, t, s), net(x, t + 0.1, s), net(x, t, s + 0.1)):
        assert (net(x, t, s) - other).abs().max().item() > 1e-3


def test_the_two_times_are_told_apart() -> None:
    net, x = perceptron(two_times=True), states(4, 3)
    t, s = torch.tensor(0.3), torch.tensor(0.8)
    assert (net(x, t, s) - net(x, s, t)).abs().max().item() > 1e-3


def test_every_label_counts_and_minus_one_is_none() -> None:
    net, x = perceptron(two_times=True, classes=3), states(4, 3)
    t, s = torch.tensor(0.3).double(), torch.tensor(0.8).double()
    outputs = [net(x, t, s, torch.full((4,), label)) for label in range(-1, 3)]
    for i, first in enumerate(outputs):
        assert all((first - other).abs().amax(1).min().item() > 1e-3 for other in outputs[:i])
    torch.testing.assert_close(net(x, t, s), outputs[0], rtol=1e-12, atol=1e-12)
    mixed = net(x, t, s, torch.tensor([2, -1, 0, 1]))
    expected = torch.stack([outputs[3][0], outputs[0][1], outputs[1][2], outputs[2][3]])
    torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-12)


def test_without_classes_a_label_is_ignored() -> None:
    net, x, t = perceptron(), states(4, 3), torch.tensor(0.3)
    assert torch.equal(net(x, t, None, torch.arange(4)), net(x, t))


def test_a_fresh_second_time_says_nothing() -> None:
    net = perceptron(two_times=True)
    assert net.second_time is not None
    nn.init.zeros_(net.second_time.output.weight)
    nn.init.zeros_(net.second_time.output.bias)
    fresh = Mlp((3,), width=16, depth=2, two_times=True)
    assert fresh.second_time is not None
    assert not fresh.second_time.output.weight.any()
    assert not fresh.second_time.output.bias.any()
    x, t = states(4, 3), torch.tensor(0.3)
    assert torch.equal(net(x, t, torch.tensor(0.8)), net(x, t))


def test_the_fourier_features_are_sines_and_cosines_of_random_projections() -> None:
    """Shifting x by 2 pi times a dual vector of the frequencies leaves the features, and hence changes only W x."""
    net = perceptron((2,), fourier=2)
    net.input.weight.data[:, :2] = 0  # only the features reach the layers
    shift = 2 * torch.pi * torch.linalg.inv(net.frequencies.T)[:, 0]
    x, t = states(4, 2), torch.tensor(0.3)
    torch.testing.assert_close(net(x + shift, t), net(x, t), rtol=1e-9, atol=1e-10)
    assert (net(x + shift / 2, t) - net(x, t)).abs().max().item() > 1e-3


def test_the_scale_of_the_frequencies_is_their_standard_deviation() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Mlp((50,), width=4, depth=1, fourier=400, fourier_scale=3.0)
    assert net.frequencies.std().item() == pytest.approx(3.0, rel=5 / (2 * 20_000) ** 0.5)


def test_each_layer_adds_to_what_the_former_ones_made() -> None:
    """With silu inputs pushed far below zero the layers add nothing, and the network is the affine map in -> out."""
    net, x = perceptron(), states(4, 3)
    for layer in net.layers:
        assert isinstance(layer, nn.Linear)
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, -1e3)
    expected = net.output(net.input(x))
    torch.testing.assert_close(net(x, torch.tensor(0.3)), expected, rtol=1e-12, atol=1e-13)
