"""Frechet distances of a finished run's images, by network evaluations a sample, each beside its floor.

All as ``charflow evaluate`` measures one evaluation: ``evaluation.frechet_samples`` images, rounded to 8 bits, to all
rows of the data; the floor is that of the data's other split, or of halves. Evaluations are at evenly spaced times.

    python -m tests.experiments.evaluations RUN --root runs --evaluations 1 2 4
"""

import argparse
import json
import sys
import time
from typing import Any

from flows.runs import chosen_root, reopen
from storage.catalog import Catalog
from storage.data import DataStore
from tasks.features import load_law_features
from tasks.frechet import measure_frechet
from tasks.train_generator import load_generator
from tasks.training.device import local_device


def measured(name: str, *, root: str, evaluations: list[int]) -> dict[str, Any]:
    """Give what the benchmark prints, of the run of that name."""
    run = reopen(Catalog(chosen_root(root)), name)
    if "train_generator" not in run.record.steps:
        raise SystemExit(f"run {name!r} has no generator yet; run it to the end first")
    device = local_device(run.config.compute.device)
    spec, data = run.config.evaluation, DataStore(run.holder("ingest").data)
    stored = load_generator(run.holder("train_generator").generator, device=device)
    features = load_law_features(spec, device=device) if spec.features else None
    results: dict[str, float] = {}
    detail: dict[str, str] = {"run": name, "device": device.type}
    for count in evaluations:
        began = time.monotonic()
        scores = measure_frechet(
            spec,
            run.config.dataset,
            data,
            stored,
            first=(),
            features=features,
            told=lambda *_: None,
            evaluations=count,
        )
        for found in scores.measured:
            value, floor = found.distance, found.floor
            results[f"{value.name}, {count}"] = value.value
            results[f"{value.name}, floor"] = floor.value
            detail[f"{value.name}, {count}"] = (
                f"{value.value:.4f} +- {value.standard_error:.4f} ({value.n:,} samples, {value.n_reference:,} rows), "
                f"floor {floor.value:.4f} +- {floor.standard_error:.4f} ({floor.n:,})"
            )
        sys.stderr.write(f"{count} evaluations: {time.monotonic() - began:.1f} s\n")
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
