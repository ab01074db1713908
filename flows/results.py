"""Commands on what a run has made: samples, an export, measures, the report."""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from flows.display import DONE, ERR, OUT, Bars, print_json, print_metrics, run_json
from flows.runs import chosen_root, reopen
from flows.watching import watched
from storage.catalog import Catalog, RunRecord
from storage.errors import InputError, StorageError
from storage.paths import Location


def sample(options: argparse.Namespace) -> int:
    """Draw samples to a file."""
    if options.count < 1:
        raise InputError(f"--count must be at least 1, got {options.count}")
    if not 0 <= options.seed < 2**63:
        raise InputError(f"--seed must be in [0, 2^63), got {options.seed}")
    out = Path(options.out)
    from tasks.sample import SampleRequest, write_sample_file

    record, data, generator = _made(options)
    request = SampleRequest(
        count=options.count, steps=options.steps, seed=options.seed, label=options.label, guidance=options.guidance
    )
    began = time.monotonic()
    with Bars(ERR).shown() as bars:

        def tell(done: int, total: int, words: str, _: object = None, /) -> None:
            if done == 0:
                bars.began("sample")
            bars.moved("sample", done, total, words)

        shape = write_sample_file(generator, data, request, out=out, progress=tell)
        bars.ended("sample", seconds=time.monotonic() - began)
    if options.json:
        return print_json({"run": record.name, "out": str(out), "shape": list(shape)})
    OUT.print(f"{out}: {' x '.join(map(str, shape))}", highlight=False)
    return DONE


def export(options: argparse.Namespace) -> int:
    """Write a run's generator as files that need no charflow."""
    record, data, generator = _made(options)
    from tasks.export import export_generator

    out = Path(options.out)
    summary = export_generator(generator, data, out=out)
    if options.json:
        return print_json({"run": record.name, "out": str(out), **asdict(summary)})
    for name in summary.files:
        OUT.print(str(out / name), highlight=False)
    OUT.print(f"outputs of the program differ by at most {summary.difference:.1g}", highlight=False)
    return DONE


def evaluate(options: argparse.Namespace) -> int:
    """Measure a run anew."""
    run = reopen(Catalog(chosen_root(options.root)), options.run)
    if "train_generator" not in run.record.steps:
        raise InputError(f"run {options.run!r} has no generator yet; run it to the end first")
    from flows.work import perform
    from tasks.executor import SerialExecutor

    with watched(), run.in_progress():
        perform("evaluate", run, SerialExecutor(), progress=lambda *_: None)
    if options.json:
        return print_json(run_json(run, run.record, ("evaluate",)))
    print_metrics(OUT, run.record)
    OUT.print(f"report: {run.holder('evaluate').report / 'index.html'}", highlight=False)
    return DONE


def report(options: argparse.Namespace) -> int:
    """Tell where the report of a run lies."""
    catalog = Catalog(chosen_root(options.root))
    record = catalog.get(options.run)
    if "evaluate" not in record.steps:
        raise InputError(
            f"run {record.name!r} has no report yet; run it to the end, or charflow evaluate {record.name}"
        )
    page = catalog.paths(record.steps["evaluate"].holder).report / "index.html"
    if not page.is_file():
        raise StorageError(f"{page} is gone; charflow evaluate {record.name} writes it anew")
    if options.json:
        return print_json({"run": record.name, "report": str(page)})
    OUT.print(str(page), highlight=False)
    return DONE


def _made(options: argparse.Namespace) -> tuple[RunRecord, Location, Location]:
    """Give a run with the places of its data and its generator, whichever runs hold them."""
    catalog = Catalog(chosen_root(options.root))
    record = catalog.get(options.run)
    for step in ("ingest", "train_generator"):
        if step not in record.steps:
            raise InputError(f"run {record.name!r} has no {step} yet; run it to the end first")
    data, generator = (catalog.paths(record.steps[step].holder) for step in ("ingest", "train_generator"))
    return record, data.data, generator.generator
