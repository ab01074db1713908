"""The command line: parses, calls, prints. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.

With ``--json`` exactly one JSON object goes to standard output; everything else goes to standard error. What needs
torch, Ray or Prefect is imported inside the commands that use it, so that the others answer at once.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from flows import catalog, logs, results, signals
from flows.bench import benchmarks, run_benchmark
from flows.config import config_name, load_config, placed, presets
from flows.display import (
    BAD_INPUT,
    DONE,
    ERR,
    FAILED,
    INTERRUPTED,
    OUT,
    print_json,
    print_run,
    print_study,
    print_table,
    run_json,
)
from flows.engines import call_flow
from flows.progress import name_run
from flows.runs import Run, chosen_root, open_run, reopen
from flows.stages import STEPS
from flows.studies import MEASURED_STEPS, Study, open_study
from flows.watching import watched
from storage.catalog import STATUSES, Catalog
from storage.errors import InputError, StorageError
from tasks.session import require_reachable


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
    try:
        options = _parser().parse_args(arguments)
        logs.install(options.log)
        name_run(getattr(options, "run", ""))
        signals.install()
        code = options.command(options)
    except BaseException as error:
        code = _explain(error)
    sys.stdout.flush()
    sys.exit(code)


def _explain(error: BaseException) -> int:
    """Tell a person in one line what ended the command, and give the exit code."""
    if signals.was_asked_to_stop() or isinstance(error, KeyboardInterrupt):
        _say("interrupted; everything committed is kept, the same command goes on from there")
        return INTERRUPTED
    if isinstance(error, SystemExit):
        raise error
    is_bad_input = isinstance(error, InputError) or type(error).__name__ == "UnreachableClusterError"
    _say(str(error) or type(error).__name__, error=error)
    if os.environ.get("CHARFLOW_TRACEBACK"):
        _say_where(error)
    elif not is_bad_input and not isinstance(error, StorageError):
        _say("set CHARFLOW_TRACEBACK=1 to see where")
    return BAD_INPUT if is_bad_input else FAILED


def _say(text: str, *, error: BaseException | None = None) -> None:
    if logs.is_json():
        logs.logger.log(logging.ERROR if error else logging.WARNING, "%s", text, exc_info=error)
    else:
        ERR.print(f"charflow: {text}", markup=False, highlight=False)


def _say_where(error: BaseException) -> None:
    if logs.is_json():
        logs.logger.debug("where it came from", exc_info=error)
    else:
        ERR.print_exception()


def _presets(options: argparse.Namespace) -> int:
    found = presets()
    if options.json:
        return print_json(found)
    print_table(OUT, ("preset", "what it shows"), list(found.items()))
    return DONE


def _run(options: argparse.Namespace) -> int:
    began = time.monotonic()
    config = placed(load_config(options.config, changes=_changes(options)))
    root = chosen_root(options.root)
    if config.compute.address:
        require_reachable(config.compute.address)
    run = open_run(
        config,
        root=root,
        name=options.name,
        source=config_name(options.config),
        until=options.until,
        tags=options.tag,
    )
    name_run(run.record.name)
    pending = run.pending
    if pending:
        _travel(run, options)
    else:
        run.settle_alone()
    record = run.record = run.catalog.get(run.record.name)  # as the flow left it
    wall = time.monotonic() - began
    if options.json:
        return print_json(run_json(run, record, pending))
    print_run(OUT, run, pending, wall=wall)
    return DONE


def _changes(options: argparse.Namespace) -> list[str]:
    return [*options.set, *([f'compute.address="{options.ray}"'] if options.ray else [])]


def _travel(run: Run, options: argparse.Namespace) -> None:
    """Take the pending steps inside the Prefect flow."""

    def load() -> Callable[[], None]:
        from flows.pipeline import pipeline

        return lambda: pipeline(
            config=run.config,
            root=str(run.catalog.root),
            name=run.record.name,
            source=run.record.config,
            until=options.until,
        )

    call_flow(load, console=ERR)


def _study(options: argparse.Namespace) -> int:
    asked = partial(
        open_study,
        options.config,
        sweeps=options.sweep,
        changes=_changes(options),
        root=chosen_root(options.root),
        until=options.until,
    )
    study = asked(name=options.name)
    is_finished = study.is_finished
    if study.pending:
        call_flow(partial(_load_study, study, options), console=ERR)
        study = asked(name=study.name)  # as the flow left it
    elif not is_finished:
        from flows.conclude import conclude

        with watched():
            study = conclude(study)
    if options.json:
        return print_json(study.result)
    print_study(OUT, study.result)
    if is_finished:
        OUT.print(f"nothing to do: study {study.name} is finished", highlight=False)
    OUT.print(f"page: {study.page}", highlight=False)
    return DONE


def _load_study(study: Study, options: argparse.Namespace) -> Callable[[], None]:
    from flows.study import study as flow

    return lambda: flow(
        source=options.config,
        sweeps=options.sweep,
        changes=_changes(options),
        root=str(study.catalog.root),
        name=study.name,
        until=options.until,
    )


def _deploy(options: argparse.Namespace) -> int:
    from flows.server import keep_client_quiet, without_password

    keep_client_quiet()
    from flows.deployments import read_deployments

    deployments = read_deployments(Path(options.file))
    rows = [(f"{d.flow.name}/{d.entry.name}", d.when, d.store[1], d.entry.work_pool.name) for d in deployments]
    if not options.check:
        from flows.registration import register, require_server

        url = without_password(require_server())
        made = register(deployments)
        for pool in sorted({one.pool for one in made if not one.has_worker}):
            ERR.print(f"no worker serves {pool} yet: prefect worker start --pool {pool}", highlight=False)
    if options.json:
        keys = ("name", "schedule", "run", "pool")
        server = "" if options.check else url
        return print_json({"server": server, "deployments": [dict(zip(keys, row, strict=True)) for row in rows]})
    print_table(OUT, ("deployment", "runs", "on run", "pool"), rows)
    OUT.print("all is right; nothing is registered" if options.check else f"registered at {url}", highlight=False)
    return DONE


def _verify(options: argparse.Namespace) -> int:
    named = reopen(Catalog(chosen_root(options.root)), options.run)
    from flows.repair import holder_of_trajectories, repair, verify

    run = holder_of_trajectories(named)
    repaired: list[int] = []
    if options.repair:
        with watched():
            repaired = repair(run)
    found = verify(run, is_quick=options.quick)
    result = {"chunks": found.chunks, "bad": list(found.bad), "missing": list(found.missing), "repaired": repaired}
    if options.json:
        print_json(result)
    else:
        words = ", ".join(f"{name} {_numbers(result[name])}" for name in ("bad", "missing", "repaired") if result[name])
        OUT.print(f"{found.chunks} chunks: {words or 'all as committed'}", highlight=False)
        if found.bad or found.missing:
            OUT.print(f"charflow verify {options.run} --repair simulates just these anew", highlight=False)
    return FAILED if found.bad or found.missing else DONE


def _numbers(chunks: Any) -> str:
    return " ".join(str(chunk) for chunk in chunks[:20]) + (" ..." if len(chunks) > 20 else "")


def _bench(options: argparse.Namespace) -> int:
    if not options.name:
        found = benchmarks()
        if options.json:
            return print_json(found)
        print_table(OUT, ("bench", "what it measures"), list(found.items()))
        return DONE
    measured = run_benchmark(options.name)
    if options.json:
        return print_json(measured)
    rows = [(name, f"{value:.4g}") for name, value in measured["results"].items()]
    print_table(OUT, ("contender", measured["unit"]), rows)
    for key, value in measured["detail"].items():
        OUT.print(f"{key}: {value}", markup=False, highlight=False)
    return DONE


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as the environment wants it: an option for it is not known then."""

    def error(self, message: str) -> NoReturn:
        logs.install("")
        complaint = InputError(f"{message}; see {self.prog} --help")
        _say(str(complaint), error=complaint)
        sys.exit(BAD_INPUT)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="charflow", description="Turn a dataset into a one-step generator, at any scale.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, command: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(command=command, log="")
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        if name in ("run", "study", "evaluate", "verify"):
            sub.add_argument("--log", default="", metavar="KIND", help="text or json; default $CHARFLOW_LOG, else text")
        if name not in ("presets", "deploy", "bench"):
            sub.add_argument(
                "--root", default="", help="folder or s3://... of runs; default $CHARFLOW_ROOT, else ./runs"
            )
        return sub

    add("presets", _presets, "list the recipes")
    run = add("run", _run, "bring a dataset to a generator and its report; run again to resume")
    study = add("study", _study, "run every combination of swept values and compare them; run again to resume")
    study.add_argument("--sweep", action="append", default=[], metavar="a.b=v1,v2", help="values of one key")
    for sub, what, steps in ((run, "run", STEPS), (study, "study", MEASURED_STEPS)):
        sub.add_argument("config", metavar="CONFIG", help="a preset or a .toml file")
        sub.add_argument("--name", default="", help=f"of the {what}; default: after the configuration")
        sub.add_argument("--set", action="append", default=[], metavar="a.b=v", help="change one key")
        sub.add_argument("--ray", default="", metavar="ADDRESS", help="host:port of a running Ray cluster, or auto")
        sub.add_argument("--until", default=STEPS[-1], metavar="STEP", help=f"last step: {', '.join(steps)}")
    run.add_argument("--tag", action="append", default=[], metavar="T", help="kept with the run, to find it by")
    _add_catalog(add)
    deploy = add("deploy", _deploy, "register the scheduled deployments with the Prefect server of PREFECT_API_URL")
    deploy.add_argument("--file", default="deploy/prefect.yaml", metavar="FILE", help="default: deploy/prefect.yaml")
    deploy.add_argument("--check", action="store_true", help="check the file and register nothing")
    bench = add("bench", _bench, "measure this machine: charflow beside its limit and its peers")
    bench.add_argument("name", metavar="NAME", nargs="?", default="", help="of the benchmark; without it: list them")
    for name, command, about in (
        ("show", catalog.show, "show one run: steps, progress, facts, metrics, lineage"),
        ("verify", _verify, "recompute the digest of every committed chunk"),
        ("sample", results.sample, "draw one-step samples"),
        ("export", results.export, "write the generator as files that need no charflow"),
        ("evaluate", results.evaluate, "measure a run anew"),
        ("report", results.report, "tell where the report of a run lies"),
    ):
        sub = add(name, command, about)
        sub.add_argument("run", metavar="RUN", help="name of the run")
        if name == "show":
            sub.add_argument("--watch", action="store_true", help="follow it while it works elsewhere, to its end")
        if name == "verify":
            how = sub.add_mutually_exclusive_group()
            how.add_argument("--repair", action="store_true", help="simulate bad and missing chunks anew")
            how.add_argument("--quick", action="store_true", help="look at records and sizes, and read no trajectory")
        if name == "sample":
            sub.add_argument("--count", type=int, required=True, help="number of samples")
            sub.add_argument("--steps", type=int, default=1, help="network evaluations a sample")
            sub.add_argument("--seed", type=int, default=0, help="of the source noise")
            sub.add_argument("--label", default=None, help="name or index of the class; default: all, as in the data")
            sub.add_argument("--guidance", type=float, default=1.0, metavar="W", help="weight of the label; default 1")
            sub.add_argument("--out", required=True, help=".npy, .npz, .zarr or .png; no suffix: a folder of images")
        if name == "export":
            sub.add_argument("--out", required=True, metavar="FOLDER", help="for weights, specification and program")
    return parser


def _add_catalog(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands on all runs, or on two."""
    runs = add("runs", catalog.runs, "list the runs, all or those that fit")
    runs.add_argument("--status", default="", metavar="S", help=f"one of {', '.join(STATUSES)}")
    runs.add_argument("--preset", default="", metavar="P", help="made from this preset or .toml file")
    runs.add_argument(
        "--since", default="", metavar="DATE", help="made then or later: 2026-01-31, 2026-01-31T12:00, UTC"
    )
    runs.add_argument("--until", default="", metavar="DATE", help="made then or earlier; a day counts whole")
    runs.add_argument("--tag", action="append", default=[], metavar="T", help="with this tag; repeated: with all")
    diff = add("diff", catalog.diff, "set two runs side by side: keys, digests, versions, stages, metrics")
    for name in ("a", "b"):
        diff.add_argument(name, metavar=name.upper(), help="name of a run")
    gc = add("gc", catalog.gc, "list what no run and no study refers to")
    gc.add_argument("--delete", action="store_true", help="and delete it")


if __name__ == "__main__":
    main()
