"""Spectral normalisation: the norms of layers as linear maps, their bound while training, and a state that resumes."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from tasks.networks.build import build_backbone
from tasks.networks.ema import MovingAverage
from tasks.networks.spectral import NormBound, settle_norms
from tasks.specs import NETWORK_KINDS, NetworkSpec
from tasks.training.checkpoint import weights_from_bytes, weights_to_bytes

DIM = (1, 4, 4)
BOUND = 1.03  # the iteration comes from below, one step behind weights that move fast here

Layer = nn.Linear | nn.Conv2d


def network(kind: str, *, spectral: bool = True, two_times: bool = False) -> nn.Module:
    spec = NetworkSpec(
        kind=kind, width=32, depth=3, channels=4, multipliers=(1, 2), blocks=1, attention=(2,), spectral=spectral
    )
    return build_backbone(spec, DIM, seed=0, two_times=two_times, classes=2)


def inputs(step: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(step)
    return torch.randn(16, *DIM, generator=rng), torch.rand(16, generator=rng)


def train(net: nn.Module, steps: range, average: MovingAverage | None = None) -> None:
    """Fit a map so steep that every bound is felt."""
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in steps:
        x, t = inputs(step)
        optimiser.zero_grad()
        (net(x, t) - 20 * x.flip(3)).square().mean().backward()
        optimiser.step()
        if average is not None:
            average.update(net, step=step)


def bounded(net: nn.Module) -> dict[str, Layer]:
    layers = {name: m for name, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    return {name: layer for name, layer in layers.items() if is_parametrized(layer)}


@torch.no_grad()
def norm(layer: Layer) -> float:
    """Largest singular value of the layer as a matrix on its whole input."""
    shape = next(m for m in layer.modules() if isinstance(m, NormBound)).directions.shape[1:]
    basis = torch.eye(shape.numel()).reshape(-1, *shape)
    bias = layer.bias if isinstance(layer, nn.Linear) else torch.as_tensor(layer.bias).reshape(-1, 1, 1)
    return float(torch.linalg.matrix_norm((layer(basis) - bias).flatten(1), 2))


@pytest.mark.parametrize("kind", NETWORK_KINDS)
def test_no_layer_stretches_a_state_after_steps_of_training(kind: str) -> None:
    net = network(kind)
    average = MovingAverage(net, decay=0.9)
    train(net, range(40), average)
    free = [weight for name, weight in net.named_parameters() if name.endswith("parametrizations.weight.original")]
    assert max(torch.linalg.matrix_norm(w.flatten(1), 2).item() for w in free) > 1.1  # the bound is felt
    for weights in (net.state_dict(), average.weights):
        net.load_state_dict(weights)
        net.eval()
        norms = {name: norm(layer) for name, layer in bounded(net).items()}
        assert all(value < BOUND for value in norms.values()), norms


@pytest.mark.parametrize("kind", NETWORK_KINDS)
def test_every_layer_that_a_state_passes_is_bounded_and_embeddings_are_not(kind: str) -> None:
    names = set(bounded(network(kind, two_times=True)))
    expected = {"input", "output"} | {
        "mlp": {f"layers.{i}" for i in range(3)},
        "unet": {"halving.0", "doubling.0"}
        | {f"{block}.{conv}" for block in ("down.0.0", "up.0.0") for conv in ("first", "second")}
        | {
            f"{block}.{layer}"
            for block in ("down.1.0", "middle.0", "middle.1", "up.1.0")
            for layer in ("first", "second", "attention.input", "attention.output")
        },
    }[kind]
    assert names == expected


def test_the_perceptron_is_lipschitz_with_the_constant_that_follows() -> None:
    """Each layer h + silu(W h) is at most 1 + 1.1 steep, silu being at most 1.0999 steep."""
    net = network("mlp")
    train(net, range(60))
    x, t = inputs(0)
    net.eval()
    jacobian = torch.func.jacrev(lambda row: net(row[None], t[:1])[0].flatten())
    steepest = max(torch.linalg.matrix_norm(jacobian(row).flatten(1), 2).item() for row in x)
    assert 1 < steepest < 2.1**3


def test_weights_of_norm_below_one_are_left_alone() -> None:
    for values in (torch.zeros(3, 5), 0.1 * torch.eye(3, 5)):
        layer = nn.Linear(5, 3)
        layer.weight.data = values
        bound = NormBound(layer, torch.Size((2, 5)))
        assert torch.equal(bound(values), values)


def test_a_weight_of_larger_norm_is_divided_by_it() -> None:
    layer = nn.Linear(5, 3)
    layer.weight.data = torch.tensor([[3.0, 0, 0, 0, 0], [0, 4.0, 0, 0, 0], [0, 0, 1.0, 0, 0]])
    bound = NormBound(layer, torch.Size((2, 5)))
    torch.testing.assert_close(bound(layer.weight), layer.weight / 4)


def test_the_norm_of_a_convolution_is_that_of_the_map_and_not_of_the_kernel_as_a_matrix() -> None:
    """Nine equal weights: the kernel's norm is 3 w, the map's on constants nearly 9 w."""
    layer = nn.Conv2d(1, 1, 3, padding=1)
    layer.weight.data.fill_(1.0)
    bound = NormBound(layer, torch.Size((2, 1, 64, 64)))
    assert bound(layer.weight).sum().item() == pytest.approx(1, abs=0.01)


def test_a_layer_that_began_at_zero_is_followed_once_it_grows() -> None:
    """An iteration that starts on the zero map must not lose its directions."""
    layer = nn.Linear(4, 4)
    layer.weight.data.zero_()
    bound = NormBound(layer, torch.Size((2, 4)))
    weight, before = torch.zeros(4, 4, requires_grad=True), bound.directions.clone()
    assert before.abs().min().item() > 0  # random ones, and no pixels of a corner
    bound(weight).sum().backward()
    assert torch.equal(bound.directions, before)
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones(4, 4))
    for _ in range(50):
        used = bound(torch.diag(torch.tensor([8.0, 2.0, 1.0, 0.0])))
    torch.testing.assert_close(used, torch.diag(torch.tensor([1.0, 0.25, 0.125, 0.0])))


def test_training_follows_the_directions_step_by_step_without_a_flip_of_sign() -> None:
    """A flip would make the moving average of a direction nothing; a projection that is iterated keeps its sign."""
    layer = nn.Linear(6, 6)
    bound = NormBound(layer, torch.Size((2, 6)))
    weight = torch.diag(torch.tensor([32.0, 16.0, 8.0, 4.0, 0.2, 0.1]))
    for _ in range(20):
        bound(weight)
    torch.testing.assert_close(bound.directions.abs(), torch.eye(4, 6), rtol=0, atol=1e-5)
    for signs in (torch.eye(4, 6), -torch.eye(4, 6)):
        bound.directions.copy_(signs)
        bound(weight)
        torch.testing.assert_close(bound.directions, signs, rtol=0, atol=1e-5)


def test_two_stretches_that_cross_are_told_apart() -> None:
    """Only the larger one counts, and it is found at once although it was not the larger one before."""
    layer = nn.Linear(6, 6)
    layer.weight.data = torch.diag(torch.tensor([3.0, 2.0, 0.3, 0.2, 0.1, 0.0]))
    bound = NormBound(layer, torch.Size((2, 6)))
    used = bound(torch.diag(torch.tensor([2.0, 3.0, 0.3, 0.2, 0.1, 0.0])))
    assert torch.linalg.matrix_norm(used, 2).item() == pytest.approx(1, rel=1e-5)


def test_the_gradient_is_that_of_the_normalised_weight() -> None:
    layer = nn.Linear(4, 3).double()
    layer.weight.data *= 10
    bound = NormBound(layer, torch.Size((2, 4))).eval()
    mine, exact = (
        torch.autograd.grad(used.square().sin().sum(), layer.weight)[0]
        for used in (bound(layer.weight), layer.weight / torch.linalg.matrix_norm(layer.weight, 2))
    )
    torch.testing.assert_close(mine, exact, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", NETWORK_KINDS)
def test_evaluation_moves_nothing(kind: str) -> None:
    net = network(kind)
    train(net, range(3))
    net.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x, t = inputs(0)
    first = net(x, t)
    assert torch.equal(net(x, t), first)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("kind", NETWORK_KINDS)
def test_a_stored_state_goes_on_to_the_same_bits(kind: str) -> None:
    undisturbed, resumed = network(kind), network(kind)
    train(undisturbed, range(3))
    stored = weights_to_bytes(undisturbed.state_dict())
    train(undisturbed, range(3, 6))
    resumed.load_state_dict(weights_from_bytes(stored))
    train(resumed, range(3, 6))
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("kind", NETWORK_KINDS)
def test_without_it_the_weights_are_the_same_and_the_state_has_no_new_names(kind: str) -> None:
    plain, spectral = network(kind, spectral=False).state_dict(), network(kind).state_dict()
    assert not [name for name in plain if "parametrizations" in name]
    originals = {name.replace("parametrizations.weight.original", "weight"): value for name, value in spectral.items()}
    assert all(torch.equal(originals[name], value) for name, value in plain.items())


@pytest.mark.parametrize("kind", NETWORK_KINDS)
def test_a_settled_network_is_an_ordinary_one_that_gives_the_same(kind: str) -> None:
    net = network(kind).requires_grad_(False)
    for parameter in net.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    x, t = inputs(0)
    expected = net.eval()(x, t)
    settle_norms(net.train())
    assert net.state_dict().keys() == network(kind, spectral=False).state_dict().keys()
    assert torch.equal(net(x, t), expected)
    settle_norms(net)
    assert torch.equal(net(x, t), expected)
