"""Frechet distances of a finished run's images, by network evaluations a sample, each beside its floor.

All as ``charflow evaluate`` measures one evaluation: ``evaluation.frechet_samples`` images, rounded to 8 bits, to all
rows of the data; the floor is that of the data's other split, or of halves. Evaluations are at evenly spaced times.
``solver`` are the ends of the stored trajectories, which the generator was fitted to: what it cannot be much better
than.

    python -m tests.experiments.evaluations RUN --root runs --evaluations 1 2 5
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from flows.runs import chosen_root, reopen
from storage.catalog import Catalog
from storage.data import DataStore, Standardisation
from storage.trajectories import Floats, TrajectoryStore
from tasks.features import load_law_features
from tasks.frechet import FrechetReference, drawn
from tasks.train_generator import load_generator
from tasks.training.device import local_device


def ends(store: TrajectoryStore, standardisation: Standardisation, *, rows: int) -> Iterator[Floats]:
    """Give the last states of the first trajectories, chunk by chunk, in data units ``[rows, *dim]``."""
    grid = store.grid(rows)
    for chunk in range(grid.count):
        x = store.read_chunk(chunk)[: grid.chunk(chunk).rows, -1]
        yield np.asarray(standardisation.to_data(x.astype(np.float32)))


def measured(name: str, *, root: str, evaluations: list[int]) -> dict[str, Any]:
    """Give what the benchmark prints, of the run of that name."""
    run = reopen(Catalog(chosen_root(root)), name)
    if "integrate" not in run.record.steps:
        raise SystemExit(f"run {name!r} has no trajectories yet; run it further first")
    device = local_device(run.config.compute.device)
    spec, data = run.config.evaluation, DataStore(run.holder("ingest").data)
    features = load_law_features(spec, device=device) if spec.features else None
    reference = FrechetReference(spec, run.config.dataset, data, features=features)
    store = TrajectoryStore.open(run.holder("integrate").trajectories)
    rows = min(reference.count, run.config.trajectories.count)
    laws: dict[str, Iterable[Floats]] = {"solver": ends(store, data.standardisation, rows=rows)}
    if "train_generator" in run.record.steps:
        stored = load_generator(run.holder("train_generator").generator, device=device)
        laws |= {
            str(count): drawn(stored, data, count=reference.count, seed=spec.seed, evaluations=count)
            for count in evaluations
        }
    results: dict[str, float] = {}
    detail: dict[str, str] = {"run": name, "device": device.type}
    for law, samples in laws.items():
        began = time.monotonic()
        for found in reference.compare(samples).measured:
            value, floor = found.distance, found.floor
            results[f"{value.name}, {law}"] = value.value
            results[f"{value.name}, floor"] = floor.value
            detail[f"{value.name}, {law}"] = (
                f"{value.value:.4f} +- {value.standard_error:.4f} ({value.n:,} samples, {value.n_reference:,} rows), "
                f"floor {floor.value:.4f} +- {floor.standard_error:.4f} ({floor.n:,})"
            )
        told = "; ".join(words for key, words in detail.items() if key.endswith(f", {law}"))
        sys.stderr.write(f"{law}: {time.monotonic() - began:.1f} s; {told}\n")
    return {"bench": "evaluations", "unit": "Frechet distance", "results": results, "detail": detail}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--root", default="")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    found = measured(options.run, root=options.root, evaluations=options.evaluations)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
