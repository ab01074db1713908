"""What the benchmarks of both trainings share: the bare loop, our workers, and the one beside the other."""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from storage.journal import read_journal
from tasks.networks.ema import MovingAverage
from tasks.specs import OptimiserSpec
from tasks.training.ddp import run_distributed

WORKERS = 2
ROUNDS = 2


def bare_loop(network: nn.Module, loss: Callable[[], Tensor], spec: OptimiserSpec) -> float:
    """Give the seconds of as many steps: the loss of a ready batch, its gradient, clipping, a step, the average."""
    torch.set_num_threads(WORKERS)
    optimiser = torch.optim.AdamW(network.parameters(), lr=spec.learning_rate, fused=True)
    average = MovingAverage(network, decay=spec.ema)
    began = time.perf_counter()
    for step in range(spec.steps):
        optimiser.zero_grad(set_to_none=True)
        loss().mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), spec.clip)
        optimiser.step()
        average.update(network, step=step)
    return time.perf_counter() - began


def our_workers(worker: Callable[..., None], request: Any, *, steps: int) -> dict[str, float]:
    """Give the seconds of the steps, those of starting and stopping, and the share spent waiting for batches."""
    outcome = run_distributed(
        worker, request, workers=WORKERS, place=request.place, steps=steps, progress=lambda *_: None
    )
    records = read_journal(request.place.journal)
    taken = [now["step"] - before for now, before in zip(records, [0.0, *(r["step"] for r in records)], strict=False)]
    waited = sum(
        record["wait_share"] * n / record["steps_per_second"] for record, n in zip(records, taken, strict=True)
    )
    elapsed = records[-1]["elapsed"]
    return {"seconds": elapsed, "startup": outcome.startup_seconds, "wait_share": waited / elapsed}


def compare(
    name: str, spec: OptimiserSpec, *, bare: Callable[[], float], ours: Callable[[int], dict[str, float]]
) -> dict[str, Any]:
    """Let both take turns, the bare loop first and last, and give the ratio of their mean wall times and its parts.

    Args:
        name: of the network, for whoever watches.
        spec: the knobs of both.
        bare: gives seconds.
        ours: gives what :func:`our_workers` does, told which turn it is.
    """
    limit: list[float] = []
    found: list[dict[str, float]] = []
    for turn in range(ROUNDS):
        limit.append(bare())
        found.append(ours(turn))
        sys.stderr.write(f"{name}, round {turn + 1} of {ROUNDS}: {found[-1]}, limit {limit[-1]:.2f} s\n")
    limit.append(bare())
    taken = [each["seconds"] for each in found]
    return {
        "limit_steps_per_second": round(spec.steps / statistics.fmean(limit), 3),
        "charflow_steps_per_second": round(spec.steps / statistics.fmean(taken), 3),
        "wall_ratio": round(statistics.fmean(taken) / statistics.fmean(limit), 3),
        "wait_share": round(max(each["wait_share"] for each in found), 4),
        "startup_seconds": round(statistics.fmean(each["startup"] for each in found), 1),
        "spread_limit": round(max(limit) / min(limit), 3),
        "spread_charflow": round(max(taken) / min(taken), 3),
        "batch_size": spec.batch_size,
        "steps": spec.steps,
    }


def report(bench: str, found: dict[str, dict[str, Any]]) -> dict[str, object]:
    """Give a benchmark's result: the U-Net's figures first, the perceptron's beside them."""
    results = {
        f"{who}{suffix}": found[network][f"{who}_steps_per_second"]
        for network, suffix in (("unet", ""), ("mlp", "_mlp"))
        for who in ("charflow", "limit")
    }
    return {"bench": bench, "unit": "steps/s", "results": results, "detail": found | {"workers": WORKERS}}
