"""Features from outside: what is taken, and one line that names the key for what is not."""

from pathlib import Path

import pytest
import torch
from torch import nn

from storage.errors import InputError
from tasks.training.features import feature_error, load_features, require_features

SOURCE = """
import torch
from torch import nn

net = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
flat = lambda x: x.flatten(1).sin()
Net = nn.Identity
number = 3
summed = lambda x: x.sum(0)
mean = lambda x: x.mean()
listed = lambda x: x.tolist()
signs = lambda x: x.sign().detach()

def failing(x):
    raise RuntimeError("first line\\nsecond line")

class Inner:
    deep = flat
"""


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside_features.py").write_text(SOURCE)
    (tmp_path / "broken_features.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_module_is_frozen_and_evaluates() -> None:
    net = load_features("outside_features:net")
    assert isinstance(net, nn.Module)
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    require_features("outside_features:net", (2,))


def test_a_function_is_taken_as_it_is_wherever_it_lies_in_its_module() -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_features("outside_features:Inner.deep")(x), x.sin())
    require_features("outside_features:flat", (1, 4, 4))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:net", r"cannot be imported \(ModuleNotFoundError: .*'no_such_module'\); .* on PYTHONPATH"),
        ("broken_features:net", r"cannot be imported \(ModuleNotFoundError: .*'no_such_package'"),
        ("outside_features:none", r"cannot be imported \(AttributeError: .*'none'"),
        ("outside_features:Net", r"must be a torch module or a function of states, got the class Identity"),
        ("outside_features:number", r"must be a torch module or a function of states, got int"),
        ("outside_features:failing", r"fails on float32 states of shape \[3, 2\]: RuntimeError: first line$"),
        ("outside_features:summed", r"must give a tensor with a row for each state, got shape \[2\] for 3 states"),
        ("outside_features:mean", r"must give a tensor with a row for each state, got shape \[\] for 3 states"),
        ("outside_features:listed", r"must give a tensor with a row for each state, got list for 3 states"),
        ("outside_features:signs", r"must be differentiable"),
    ],
)
def test_what_cannot_serve_is_refused_in_one_line_that_names_the_key(name: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"^generator\.features = '{name}' {message}") as caught:
        require_features(name, (2,))
    assert "\n" not in str(caught.value)


def test_the_error_is_a_mean_over_features_of_each_row() -> None:
    x, y = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2)
    assert feature_error(lambda x: 2 * x, x, y).tolist() == [(4 + 16) / 2, 0.0]
