"""The classifier whose features measure CIFAR-10: that it learns, and fits the configuration's keys."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tasks.features import count_features, load_law_features
from tasks.specs import EvaluationSpec
from tests.experiments.cifar_features import Classifier, accuracy, train


def colours(rows: int, *, seed: int, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Give noisy images of one of two colours, and which."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 2, (rows,), generator=draw)
    x = torch.randn(rows, 3, side, side, generator=draw) * 0.3
    x[torch.arange(rows), label] += 0.5
    return x.clamp(-1, 1), label


def test_a_trained_classifier_tells_what_it_has_not_seen() -> None:
    torch.manual_seed(0)
    net = Classifier((4, 8, 8, 8))
    train(net, *colours(64, seed=0), epochs=40)
    assert accuracy(net, *colours(32, seed=1)) > 0.9


def test_its_weights_serve_an_evaluation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Classifier().eval()
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    spec = EvaluationSpec(
        features="tests.experiments.cifar_features:network", features_weights=str(tmp_path / "weights.safetensors")
    )
    features = load_law_features(spec)
    assert count_features(features, (3, 32, 32)) == 256
    x, _ = colours(3, seed=0, side=32)
    with torch.no_grad():
        assert features.points(x.numpy()) == pytest.approx(np.asarray(net(x).double()), abs=1e-5)
