"""Features of a small residual network that this script trains to tell the classes of CIFAR-10: no Inception network.

For ``evaluation.features = "tests.experiments.cifar_features:network"``, with the weights that are written as
``evaluation.features_weights``; the features are the 256 numbers before its last layer. The share of
the test images that it tells right is printed, and belongs beside any score.

    python -m tests.experiments.cifar_features --data data/cifar10 --out classifier.safetensors
"""

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from storage.datasets.resolve import open_dataset
from storage.specs import SourceSpec
from tasks.training.device import local_device

_WIDTHS = (64, 128, 256, 256)
_EPOCHS, _BATCH, _RATE, _SHIFT = 16, 512, 0.2, 4


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.as_tensor(self.change(x))


class Classifier(nn.Module):
    """Give the features ``[batch, 256]`` of images ``[batch, 3, 32, 32]`` in [-1, 1]; :meth:`logits` the classes'.

    Args:
        widths: channels of the levels, the last that of the features.
    """

    def __init__(self, widths: tuple[int, ...] = _WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, widths[0])]
        for inputs, outputs in pairwise(widths):
            layers += [_convolution(inputs, outputs), nn.MaxPool2d(2), _Residual(outputs)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Give the features."""
        return torch.as_tensor(self.body(x).mean((2, 3)))

    def logits(self, x: Tensor) -> Tensor:
        """Give the logits of the classes, ``[batch, 10]``."""
        return torch.as_tensor(self.head(self(x)))


network = Classifier().eval()  # with fresh weights: evaluation.features_weights names those that this script writes


def train(net: Classifier, x: Tensor, label: Tensor, *, epochs: int = _EPOCHS) -> None:
    """Train on images ``[rows, 3, height, width]`` in [-1, 1], which are mirrored and shifted at random.

    Args:
        net: on the device of the images; in evaluation mode afterwards.
        x: images.
        label: classes, int64 ``[rows]``.
        epochs: how often each image is seen.
    """
    net.train()
    batch = min(_BATCH, len(x))
    steps = len(x) // batch
    optimiser = torch.optim.SGD(net.parameters(), lr=_RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=epochs * steps, pct_start=0.25)
    padded = nn.functional.pad(x, (_SHIFT,) * 4, mode="reflect")
    for _ in range(epochs):
        order = torch.randperm(len(x), device=x.device)
        for rows in torch.split(order[: steps * batch], batch):
            top, left = (int(k) for k in torch.randint(0, 2 * _SHIFT + 1, (2,)))
            images = padded[rows, :, top : top + x.shape[2], left : left + x.shape[3]]
            is_mirrored = torch.rand(len(rows), 1, 1, 1, device=x.device) < 0.5
            images = torch.where(is_mirrored, images.flip(3), images)
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=x.device.type == "cuda"):
                loss = nn.functional.cross_entropy(net.logits(images), label[rows], label_smoothing=0.1)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    net.eval()


def accuracy(net: Classifier, x: Tensor, label: Tensor) -> float:
    """Give the share of images that are told right."""
    with torch.no_grad():
        found = torch.cat([net.logits(part).argmax(1) for part in torch.split(x, _BATCH)])
    return float((found == label).double().mean())


def _split(folder: str, split: str, device: torch.device) -> tuple[Tensor, Tensor]:
    rows = open_dataset(SourceSpec(kind="parquet", path=folder, split=split))
    x, label = rows.read(0, rows.rows)
    return torch.from_numpy(np.asarray(x, np.float32)).to(device), torch.from_numpy(np.asarray(label)).to(device).long()


def main() -> None:
    """Train, write the weights, and print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    device = local_device("auto")
    torch.manual_seed(options.seed)
    net = Classifier().to(device)
    train(net, *_split(options.data, "train", device))
    found = accuracy(net, *_split(options.data, "test", device))
    save_file({name: weight.cpu().contiguous() for name, weight in net.state_dict().items()}, options.out)
    sys.stdout.write(json.dumps({"out": str(options.out), "test_accuracy": found}) + "\n")


if __name__ == "__main__":
    main()
