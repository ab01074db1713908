"""Samples of charflow, endpoint distillation, a consistency map and flow matching, on one budget of steps: w2_ratio.

On moons, checkerboard and digits, with the presets of these names; with ``--mnist`` on MNIST as well, unconditionally.

- ``charflow``: the preset as it is, and with the semigroup penalty.
- ``endpoint_distillation``: charflow on the pairs (x_0, x_K) alone, which is what 2-rectified flow distils.
- ``consistency``: consistency distillation from the same velocity (``_consistency.py``).
- ``flow_matching``: the preset's velocity network, trained for the steps of both networks; Euler's method.
- ``limit``: 1, what fresh data score.

Equal for all: backbone, optimiser and its schedule, velocity.steps + generator.steps optimiser steps of the preset's
batches, weights' averages, seed, source noise and data of the evaluation. Not equal, and told by the seconds: a step of
the consistency map evaluates its target once and the teacher twice beside the map, one with the semigroup penalty the
map two times more, and charflow and endpoint distillation need trajectories. Teacher and trajectories are made once,
and their seconds count for each that needs them; the simulation uses one core, trainings two threads. Where a sample
takes more evaluations, they are at evenly spaced times; the consistency map's states are noised anew between them. One
seed: the standard error is of the evaluation and knows nothing of other trainings.

    charflow bench alternatives
    python -m tests.benchmarks.alternatives --datasets moons --semigroup 0.03 0.1 0.3
    python -m tests.benchmarks.alternatives --datasets --mnist FOLDER --set generator.steps=2000
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from flows.config import PipelineConfig, load_config
from storage.data import DataStore
from tasks.distances import compare, data_sets, set_ranges
from tasks.evaluation.comparison import Comparison, Measured, held, measure
from tasks.evaluation.wasserstein import wasserstein
from tasks.training.device import local_device
from tests.benchmarks._contenders import Contender, make_contenders
from tests.benchmarks._training import WORKERS

DATASETS = ("moons", "checkerboard", "digits")
SEMIGROUP = (0.1,)
QUICK = (
    *(f"{section}.{key}" for section in ("velocity", "generator") for key in ("steps=20", "warmup=2", "batch_size=64")),
    *("trajectories.count=256", "trajectories.steps=8", "trajectories.chunk_rows=256"),
    *("evaluation.samples=64", "evaluation.repeats=3"),
)
QUICK_PERCEPTRON = ("velocity.network.width=16", "generator.network.width=16")

Known = dict[tuple[int, int], float]  # W2 by the identities of two sets that are held


class Evaluation:
    """Sets of data, the same for all contenders, and the distances between them, which are measured once.

    Size, repetitions and pairs are those of ``charflow evaluate``.
    """

    def __init__(self, config: PipelineConfig, data: DataStore) -> None:
        self.ranges = set_ranges(config.evaluation, config.dataset, data)
        sets = data_sets(config.evaluation, config.dataset, data)
        self._sets = [tuple(held(load()) for load in each) for each in sets]
        self._floor: Known = {}

    def measure(self, contender: Contender) -> Measured:
        """Give W2 to the data, its floor and the ratio."""
        comparison = compare([contender.draw(start, stop) for start, stop in self.ranges], self._sets)
        if not self._floor:
            self._floor = _distances(comparison, within=True)
        known = self._floor | _distances(comparison, within=False)
        return measure("w2", lambda x, y: known[id(x), id(y)], comparison)


def _distances(comparison: Comparison, *, within: bool) -> Known:
    """Give the W2 of all pairs of one kind, computed side by side: the solver lets go of the interpreter."""
    pairs = [(pair.x(), pair.y()) for pair in (comparison.within if within else comparison.across)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        values = list(pool.map(lambda pair: wasserstein(*pair), pairs))
    return {(id(x), id(y)): value for (x, y), value in zip(pairs, values, strict=True)}


def measure_dataset(config: PipelineConfig, *, semigroup: tuple[float, ...]) -> dict[str, Any]:
    """Train and measure all contenders on one dataset."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        contenders = make_contenders(config, folder, semigroup=semigroup)
        evaluation = Evaluation(config, DataStore(folder / "data.zarr"))
        measured = []
        for each in contenders:
            measured.append(evaluation.measure(each))
            sys.stderr.write(f"{each.name}, {each.evaluations} evaluations: {measured[-1].ratio.value:.3f}\n")
    floor = measured[0].floor
    return {
        "rows": [as_row(contender, found) for contender, found in zip(contenders, measured, strict=True)],
        "w2_floor": round(floor.value, 4),
        "w2_floor_standard_error": round(floor.standard_error, 4),
        "n": floor.n,
        "repeats": config.evaluation.repeats,
        "optimiser_steps": config.velocity.steps + config.generator.steps,
        "batch_size": config.generator.batch_size,
    }


def as_row(contender: Contender, measured: Measured) -> dict[str, Any]:
    return {
        "contender": contender.name,
        "evaluations": contender.evaluations,
        "w2_ratio": round(measured.ratio.value, 4),
        "standard_error": round(measured.ratio.standard_error, 4),
        "w2": round(measured.distance.value, 4),
        "seconds": round(contender.seconds, 1),
    }


def measure_all(configs: dict[str, PipelineConfig], *, semigroup: tuple[float, ...]) -> dict[str, Any]:
    found = {name: measure_dataset(config, semigroup=semigroup) for name, config in configs.items()}
    results = {
        f"{name}.{row['contender']}.{row['evaluations']}": row["w2_ratio"]
        for name, each in found.items()
        for row in each["rows"]
    }
    about = {
        "seeds": sorted({config.seed for config in configs.values()}),
        "threads": WORKERS,
        "device": local_device("auto").type,
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
    }
    return {"bench": "alternatives", "unit": "w2_ratio", "results": results | {"limit": 1.0}, "detail": found | about}


def as_table(found: dict[str, Any]) -> str:
    """Give the rows of all datasets as a Markdown table."""
    lines = ["| dataset | contender | evaluations | w2_ratio | seconds |", "|---|---|---|---|---|"]
    for name, each in found["detail"].items():
        if isinstance(each, dict):
            lines += [
                f"| `{name}` | {row['contender']} | {row['evaluations']} | "
                f"{row['w2_ratio']:.3f} ± {row['standard_error']:.3f} | {row['seconds']:.0f} |"
                for row in each["rows"]
            ]
    return "\n".join(lines) + "\n"


def configs_of(
    datasets: Sequence[str], *, mnist: str, quick: bool, changes: Sequence[str] = ()
) -> dict[str, PipelineConfig]:
    """Give the presets' configurations, unconditional, with changes, and tiny sizes where that is asked for."""
    changes = (*(QUICK if quick else ()), *changes)
    narrow = QUICK_PERCEPTRON if quick else ()
    configs = {name: load_config(name, changes=(*changes, *narrow)) for name in datasets}
    if mnist:
        unconditional = (f"dataset.path={json.dumps(mnist)}", "velocity.conditional=false")
        configs["mnist"] = load_config("mnist", changes=(*unconditional, *changes))
    return configs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="*", choices=DATASETS, default=DATASETS, help="default: all")
    parser.add_argument("--mnist", default="", metavar="FOLDER", help="of MNIST's files: measured as well")
    parser.add_argument(
        "--semigroup", nargs="*", type=float, default=SEMIGROUP, metavar="W", help="weights that are tried; default 0.1"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; figures mean nothing")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="changes", help="of all datasets' presets"
    )
    options = parser.parse_args()
    configs = configs_of(options.datasets, mnist=options.mnist, quick=options.quick, changes=options.changes)
    found = measure_all(configs, semigroup=tuple(options.semigroup))
    sys.stderr.write(as_table(found))
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
