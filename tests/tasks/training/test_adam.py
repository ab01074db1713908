"""Adam beside torch's own class: the same bits, the same checkpoints, and none of its imports."""

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.training.adam import Adam

ROOT = Path(__file__).resolve().parents[3]
RATES = [1e-2 / (1 + k) for k in range(20)]


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(27, 4))
    net[0].bias.requires_grad_(False)
    return net


def theirs(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), betas=(0.9, 0.99), weight_decay=0.0, fused=True)


def add_gradients(net: nn.Module, step: int) -> None:
    x = torch.randn(5, 2, 5, 5, generator=torch.Generator().manual_seed(step))
    torch.as_tensor(net(x)).square().sum().backward()  # type: ignore[no-untyped-call]


def weights(net: nn.Module) -> list[Tensor]:
    return list(net.state_dict().values())


def trained_by_torch(net: nn.Module, *, upto: int) -> torch.optim.Optimizer:
    optimiser = theirs(net)
    for step, rate in enumerate(RATES[:upto]):
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        add_gradients(net, step)
        optimiser.step()
    return optimiser


def train(net: nn.Module, adam: Adam, *, begin: int = 0) -> None:
    for step, rate in list(enumerate(RATES))[begin:]:
        adam.clear()
        add_gradients(net, step)
        adam.step(rate)


def test_it_takes_the_steps_of_torchs_class_to_the_bit() -> None:
    ours, other = network(), network()
    train(ours, Adam(ours.parameters()))
    trained_by_torch(other, upto=len(RATES))
    assert all(map(torch.equal, weights(ours), weights(other)))
    assert not torch.equal(ours[0].weight, network()[0].weight)  # type: ignore[index]


def test_it_goes_on_from_its_own_state_and_from_that_of_torchs_class() -> None:
    undisturbed = network()
    train(undisturbed, Adam(undisturbed.parameters()))
    by_torch = network()
    found = trained_by_torch(by_torch, upto=7).state_dict()
    begun = Adam(by_torch.parameters())
    begun.load_state_dict(found)
    copied = Adam(by_torch.parameters())
    copied.load_state_dict(begun.state_dict())
    train(by_torch, copied, begin=7)
    assert all(map(torch.equal, weights(undisturbed), weights(by_torch)))


def test_a_training_on_a_cpu_imports_nothing_of_torchs_compiler() -> None:
    words = (
        "import sys, torch; from torch import nn; from tasks.training.loop import begin; from tasks.specs import *;"
        "net = nn.Linear(2, 2); state = begin(net, VelocitySpec().optimiser());"
        "net(torch.ones(3, 2)).sum().backward(); state.optimiser.step(0.1); state.optimiser.clear();"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", words], cwd=ROOT, check=True)
