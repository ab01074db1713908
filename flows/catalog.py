"""Commands on the catalog: which runs there are, where one comes from, how two differ, what nobody needs any more."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from flows.comparison import compare
from flows.display import DONE, INTERRUPTED, OUT, print_json, print_losses, print_metrics, print_table
from flows.garbage import wishes_of
from flows.lineage import digests_of, lineage_of, total
from flows.losses import losses_of
from flows.runs import chosen_root, reopen
from flows.selection import selection, status_of
from flows.stages import STEPS
from flows.standing import as_json, lines, standing
from flows.watch import watch
from storage.catalog import Catalog, RunRecord
from storage.garbage import Garbage, clear_garbage, find_garbage

_UNKNOWN = "unknown"


def runs(options: argparse.Namespace) -> int:
    """List the runs that are asked for, the newest first."""
    asked = selection(
        status=options.status, preset=options.preset, since=options.since, until=options.until, tags=options.tag
    )
    records = [record for record in Catalog(chosen_root(options.root)).runs() if asked.fits(record)]
    if options.json:
        return print_json({"runs": [asdict(record) | {"status": status_of(record)} for record in records]})
    header = ("run", "status", "config", "steps", "w2_ratio", "created", "updated", "tags")
    print_table(OUT, header, [_run_row(record) for record in records])
    return DONE


def _run_row(record: RunRecord) -> tuple[str, ...]:
    ratio = f"{record.metrics['w2_ratio']:.3f}" if "w2_ratio" in record.metrics else ""
    moments = (record.created[:10], record.updated[:16])  # to the day and to the minute, UTC
    steps, tags = str(len(record.steps)), ", ".join(record.tags)
    return record.name, status_of(record), record.config, steps, ratio, *moments, tags


def show(options: argparse.Namespace) -> int:
    """Tell all of one run: steps, progress, facts, where it comes from, what it took, metrics; or watch it to its end.

    With both ``--watch`` and ``--json`` the one object is of the run's end.
    """
    catalog = Catalog(chosen_root(options.root))
    code = watch(catalog, options.run, is_quiet=options.json) if options.watch else DONE
    if options.watch and (not options.json or code == INTERRUPTED):
        return code
    record = catalog.get(options.run)
    folder = catalog.paths(record.name).folder
    found, lineage = standing(catalog, record), lineage_of(catalog, record)
    if options.json:
        more = {
            "losses": losses_of(record),
            "status": status_of(record),
            "path": str(folder),
            "progress": as_json(found),
        }
        sums = {name: total(lineage, name) for name in ("core_hours", "bytes")}
        print_json(asdict(record) | more | {"digests": digests_of(record), "lineage": lineage} | sums)
        return code
    OUT.print(f"{record.name}: {status_of(record)}, made from {record.config}, {folder}", highlight=False)
    if record.tags:
        OUT.print(f"tags: {', '.join(record.tags)}", markup=False, highlight=False)
    if record.error:
        OUT.print(f"error: {record.error}", markup=False, highlight=False)
    if status_of(record) in ("failed", "interrupted") and (account := catalog.paths(record.name).account).is_file():
        OUT.print(f"account: {account}", markup=False, highlight=False)
    for line in lines(found):
        OUT.print(line, markup=False, highlight=False)
    print_table(OUT, ("step", "seconds", "key", "held by", "facts"), [_step_row(record, step) for step in STEPS])
    print_losses(OUT, record)
    if lineage:
        OUT.print()
        _print_lineage(record, lineage)
    if record.metrics:
        OUT.print()
        print_metrics(OUT, record)
    return DONE


def _step_row(record: RunRecord, step: str) -> tuple[str, ...]:
    stage = record.steps.get(step)
    if stage is None:
        return (step, *[""] * 4)
    holder = "" if stage.holder == record.name else stage.holder
    return step, f"{stage.seconds:.1f}", stage.key[:12], holder, _facts(stage.summary)


def _facts(summary: Mapping[str, Any]) -> str:
    told = {key: value for key, value in summary.items() if isinstance(value, (int, str)) and key != "advice"}
    return ", ".join(f"{key} {value}" for key, value in told.items())


def _print_lineage(record: RunRecord, lineage: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what each step read, with which code, where, and what it took and left."""
    header = ("step", "read", "charflow", "host", "cores", "core-hours", "bytes")
    print_table(OUT, header, [(step, *_lineage_row(facts)) for step, facts in lineage.items()])
    cost, size = total(lineage, "core_hours"), total(lineage, "bytes")
    OUT.print(
        f"in all, steps of other runs included: {_known(cost, '.3g')} core-hours, {_known(size, ',')} bytes",
        highlight=False,
    )
    for step, facts in lineage.items():
        if not facts["is_held"]:
            OUT.print(f"{step}: run {facts['holder']} no longer holds what was used here", highlight=False)
    if record.versions:
        OUT.print(", ".join(f"{name} {version}" for name, version in record.versions.items()), highlight=False)


def _lineage_row(facts: Mapping[str, Any]) -> tuple[str, ...]:
    read = facts["inputs"]
    inputs = _UNKNOWN if read is None else ", ".join(f"{name} {digest[:12]}" for name, digest in read.items())
    code = (facts["versions"] or {}).get("charflow", _UNKNOWN)
    numbers = (_known(facts["cores"]), _known(facts["core_hours"], ".3g"), _known(facts["bytes"], ","))
    return inputs, code, facts["host"] or _UNKNOWN, *numbers


def _known(value: float | None, form: str = "") -> str:
    return _UNKNOWN if value is None else format(value, form)


def diff(options: argparse.Namespace) -> int:
    """Tell in what two runs differ, and set their metrics side by side."""
    catalog = Catalog(chosen_root(options.root))
    a, b = (reopen(catalog, name) for name in (options.a, options.b))
    found = compare(a, b)
    if options.json:
        return print_json(found)
    names = (found["a"], found["b"])
    for what, title in (("configuration", "key"), ("digests", "digest"), ("versions", "version")):
        rows = [(key, _value(pair["a"]), _value(pair["b"])) for key, pair in found[what].items()]
        if rows:
            print_table(OUT, (title, *names), rows)
            OUT.print()
    OUT.print(_parting(found), highlight=False)
    if found["metrics"]:
        OUT.print()
        measures = [(name, *_metric(pair["a"]), *_metric(pair["b"])) for name, pair in found["metrics"].items()]
        print_table(OUT, ("metric", names[0], "±", names[1], "±"), measures)
    return DONE


def _parting(found: Mapping[str, Any]) -> str:
    shared, first = ", ".join(found["shared"]), found["first_difference"]
    if first is None:
        return "the same stages, all of them"
    return f"they share {shared}, and part at {first}" if shared else f"they share no stage, and part at {first}"


def _value(value: Any) -> str:
    return "" if value is None else str(value)


def _metric(found: Mapping[str, float | None] | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    error = found["standard_error"]
    return f"{found['value']:.4g}", "" if error is None else f"{error:.2g}"


def gc(options: argparse.Namespace) -> int:
    """List what no run and no study refers to, or delete it."""
    catalog = Catalog(chosen_root(options.root))
    clear = clear_garbage if options.delete else find_garbage
    found = clear(catalog, partial(wishes_of, catalog))
    if options.json:
        items = [_garbage_json(item) for item in found.garbage]
        return print_json(
            {"garbage": items, "bytes": found.bytes, "is_deleted": options.delete, "spared": dict(found.spared)}
        )
    if found.garbage:
        root = f"{catalog.root}/"
        rows = [(str(item.path).removeprefix(root), f"{item.bytes:,}", item.why) for item in found.garbage]
        print_table(OUT, ("place", "bytes", "why"), rows)
    for name, why in found.spared.items():
        OUT.print(f"run {name} was left alone: {why}", markup=False, highlight=False)
    if options.delete:
        OUT.print(f"{found.bytes:,} bytes deleted", highlight=False)
    elif found.garbage:
        OUT.print(f"{found.bytes:,} bytes; charflow gc --delete deletes them", highlight=False)
    else:
        OUT.print("nothing to clear away", highlight=False)
    return DONE


def _garbage_json(item: Garbage) -> dict[str, Any]:
    return {"run": item.run, "path": str(item.path), "bytes": item.bytes, "why": item.why}
