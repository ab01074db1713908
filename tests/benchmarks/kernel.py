"""The kernel velocity of 60,000 points of 784 dimensions for 1,024 states, against a plain softmax and the matrix rate.

Two times are measured: the middle of the way, where every product is needed, and close to the data, where few points
count. The limit is what two matrix products of all states with all points would take at the rate measured here. All
contenders take turns within one process; figures are medians over the rounds.

    charflow bench kernel
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from tasks.transport.interpolant import Interpolant
from tasks.transport.kernel import LEAF_ROWS, Leaf
from tasks.transport.kernel_field import HeldPoints, KernelField
from tasks.transport.nearest import fit_reduction

POINTS, SIZE, STATES = 60_000, 784, 1_024
MIDDLE, NEAR = 0.5, 0.99
ROUNDS = 5


class HeldLeaves:
    """Points in memory, cut into leaves once."""

    def __init__(self, x: Tensor, *, reduced: Tensor) -> None:
        self.rows = len(x)
        half_square = x.to(torch.float64).square().sum(1) / 2
        self._leaves = [
            Leaf(x=x[part], half_square=half_square[part], reduced=reduced[part], label=None)
            for part in (slice(start, start + LEAF_ROWS) for start in range(0, len(x), LEAF_ROWS))
        ]

    def leaf(self, index: int) -> Leaf:
        return self._leaves[index]


def image_like(rows: int, *, seed: int) -> Tensor:
    """Give points of unit variance whose spectrum falls like one over the rank, as that of handwritten digits does."""
    rng = torch.Generator().manual_seed(seed)
    scales = 1 / torch.arange(1, SIZE + 1)
    x = torch.randn(rows, SIZE, generator=rng) * (scales * SIZE / scales.sum()).sqrt()
    rotation, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=rng))
    return torch.as_tensor(x @ rotation)


def plain_softmax(x: Tensor, half_square: Tensor, t: float, states: Tensor) -> Tensor:
    """Give the denoiser of the linear interpolant by one float32 softmax over the whole dataset."""
    logits = (t * (states @ x.T) - t * t * half_square) / (1 - t) ** 2
    return torch.softmax(logits, 1) @ x


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(*, seed: int) -> dict[str, object]:
    x = image_like(POINTS, seed=seed)
    reduction = fit_reduction(x, seed=seed)
    points = HeldLeaves(x, reduced=reduction.reduce(x))
    field = KernelField(
        interpolant=Interpolant("linear"), bandwidth=0.0, reduction=reduction, regression=HeldPoints(points=points)
    )
    rng = torch.Generator().manual_seed(seed + 1)
    noise = torch.randn(STATES, SIZE, generator=rng)
    data = x[torch.randint(0, POINTS, (STATES,), generator=rng)]
    half_square = x.square().sum(1) / 2
    left, right = torch.randn(STATES, SIZE, generator=rng), torch.randn(LEAF_ROWS, SIZE, generator=rng)

    def product() -> None:
        for _ in range(POINTS // LEAF_ROWS):
            left @ right.T

    states = {t: (1 - t) * noise + t * data for t in (MIDDLE, NEAR)}
    contenders: dict[str, Callable[[], object]] = {"limit": product}
    for suffix, t in (("", MIDDLE), ("_near", NEAR)):
        contenders[f"charflow{suffix}"] = lambda t=t: field.denoiser(torch.tensor(t), states[t])  # type: ignore[misc]
        contenders[f"torch_softmax{suffix}"] = lambda t=t: plain_softmax(x, half_square, t, states[t])  # type: ignore[misc]
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):
        for name, work in contenders.items():
            spent = seconds(work)
            if turn:  # the first warms up
                took[name].append(spent)
    middle = {name: statistics.median(values) for name, values in took.items()}
    middle["limit"] *= 2 * POINTS / (POINTS // LEAF_ROWS * LEAF_ROWS)  # two products with all the points
    gaps = {
        t: float((field.denoiser(torch.tensor(t), states[t]) - plain_softmax(x, half_square, t, states[t])).abs().max())
        for t in (MIDDLE, NEAR)
    }
    return {
        "bench": "kernel",
        "unit": "states/s",
        "results": {name: round(STATES / value, 1) for name, value in middle.items()},
        "detail": {
            "points": POINTS,
            "size": SIZE,
            "states": STATES,
            "times": {"": MIDDLE, "near": NEAR},
            "share_of_limit": round(middle["limit"] / middle["charflow"], 3),
            "times_softmax_near": round(middle["torch_softmax_near"] / middle["charflow_near"], 2),
            "times_softmax": round(middle["torch_softmax"] / middle["charflow"], 2),
            "gflops": round(4e-9 * STATES * POINTS * SIZE / middle["limit"], 1),
            "spread": {name: round(max(values) / min(values), 2) for name, values in took.items()},
            "largest_difference": gaps,
            "threads": torch.get_num_threads(),
            "seed": seed,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    print(json.dumps(measure(seed=parser.parse_args().seed), indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
