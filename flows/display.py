"""What a person sees: a bar for each working step, tables at the end."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from flows.logs import StepLog, is_json
from flows.losses import losses_of
from flows.progress import Listener, Stopwatch, rate_words
from flows.runs import Run
from flows.sweep import short_keys
from storage.catalog import RunRecord
from tasks.facts import Facts

OUT = Console(soft_wrap=True)
ERR = Console(stderr=True, soft_wrap=True)

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130  # exit codes

_LONGEST_LINE = 10_000  # characters, of what is no terminal
_NAME_WIDTH = 32  # characters, at most, of what is not folded
_MOST_BARS = 12  # at once; earlier ones make room


class Bars:
    """A live bar a step on a terminal; elsewhere a line at its start and end, or the log that is asked for."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[count]:>17} {task.fields[rate]:>9}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[words]}"),
            console=console,
        )
        self._working: dict[str, tuple[TaskID, Stopwatch]] = {}  # by step

    @contextmanager
    def shown(self) -> Iterator[Listener]:
        """Draw while inside."""
        if is_json():
            yield StepLog()
            return
        if not self._console.is_terminal:
            yield self
            return
        with self._bars:
            yield self

    def began(self, step: str) -> None:
        """Open the step's bar."""
        if not self._console.is_terminal:
            self._console.print(f"{step} ...", highlight=False)
            return
        self._fill(step)
        for task in self._bars.tasks[: 1 - _MOST_BARS]:
            self._bars.update(task.id, visible=False)
        self._working[step] = self._bars.add_task(step, total=None, count="", rate="", words=""), Stopwatch()

    def moved(self, step: str, done: int, total: int, words: str, facts: Facts | None = None) -> None:
        """Move the step's bar."""
        if step not in self._working:
            return
        bar, stopwatch = self._working[step]
        rate = rate_words(stopwatch.moved(done, total, now=self._bars.tasks[bar].elapsed or 0.0))
        self._bars.update(bar, completed=done, total=total, count=f"{done:,}/{total:,}", rate=rate, words=words)

    def ended(self, step: str, *, seconds: float) -> None:
        """Fill the step's bar."""
        if self._console.is_terminal:
            self._fill(step)
        else:
            self._console.print(f"{step} done in {seconds:.1f} s", highlight=False)

    def failed(self, step: str, error: BaseException, *, seconds: float) -> None:
        """Leave the step's bar where it stands; what went wrong is told in the end."""
        if step in self._working:
            self._bars.stop_task(self._working.pop(step)[0])

    @contextmanager
    def member(self, name: str) -> Iterator[Listener]:
        """Let all steps of a run move one bar, which is the run's."""
        began = time.monotonic()
        self.began(name)
        yield _Member(name, self)
        self.ended(name, seconds=time.monotonic() - began)

    def _fill(self, step: str) -> None:
        if step in self._working:
            bar, _ = self._working.pop(step)
            total = self._bars.tasks[bar].total or 1  # none is ever taken away, so numbers are places
            self._bars.update(bar, completed=total, total=total)
            self._bars.stop_task(bar)


class _Member:
    """Moves one bar of many, whatever the step; it is begun and ended elsewhere."""

    def __init__(self, name: str, bars: Bars) -> None:
        self._name = name
        self._bars = bars

    def began(self, step: str) -> None:
        """Ignore it: the run has begun."""

    def moved(self, step: str, done: int, total: int, words: str, facts: Facts | None = None) -> None:
        """Move the run's bar."""
        self._bars.moved(self._name, done, total, f"{step}, {words}")

    def ended(self, step: str, *, seconds: float) -> None:
        """Ignore it: the run goes on."""

    def failed(self, step: str, error: BaseException, *, seconds: float) -> None:
        """Ignore it: the run's bar stays where it is."""

    def member(self, name: str) -> AbstractContextManager[Listener]:
        """Give itself."""
        return nullcontext(self)


def print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, text to the left and numbers to the right.

    On a terminal cells are folded to its width, but for names in the first column; elsewhere a row is a line.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    for k, name in enumerate(header):
        is_number = bool(rows) and all(_is_number(row[k]) for row in rows if row[k])
        is_name = k == 0 and all(len(row[0]) <= _NAME_WIDTH for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=is_name)
    for row in rows:
        table.add_row(*row)
    where = console if console.is_terminal else Console(file=console.file, width=_LONGEST_LINE, color_system=None)
    where.print(table, highlight=False)


def metric_rows(metrics: Mapping[str, float], detail: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    """Give a row of name, value, standard error and n for each metric."""
    return [
        (
            name,
            f"{value:.4g}",
            f"{detail[name]['standard_error']:.2g}" if name in detail else "",
            f"{detail[name]['n']:g}" if name in detail else "",
        )
        for name, value in metrics.items()
    ]


def print_metrics(console: Console, record: RunRecord) -> None:
    """Print a run's metrics, and which error to spend on next."""
    print_table(console, ("metric", "value", "error", "n"), metric_rows(record.metrics, record.metrics_detail))
    if advice := advice_of(record):
        console.print(advice, markup=False, highlight=False)


def advice_of(record: RunRecord) -> str:
    """Give what a run's error budget advises; empty where there is none, as in runs of before."""
    return str(record.steps["evaluate"].summary.get("advice", "")) if "evaluate" in record.steps else ""


def print_run(console: Console, run: Run, pending: Sequence[str], *, wall: float) -> None:
    """Print what a command did of a run: its steps, the time that was not theirs, its metrics and where they lie.

    Args:
        console: where.
        run: as it is now.
        pending: the steps that the command found undone.
        wall: seconds that the command took.
    """
    record = run.record
    rows = []
    for step in run.steps:
        stage = record.steps[step]
        where = "" if stage.holder == record.name else f" from run {stage.holder}"
        rows.append((step, "done" if step in pending else f"reused{where}", f"{stage.seconds:.1f}"))
    print_table(console, ("step", "status", "seconds"), rows)
    if not pending:
        console.print(f"nothing to do: run {record.name} has all of it already", highlight=False)
    else:
        _print_orchestration(console, record, pending, wall=wall)
    print_losses(console, record)
    if record.metrics:
        console.print()
        print_metrics(console, record)
    console.print()
    if "evaluate" in run.steps:
        console.print(f"report: {run.holder('evaluate').report / 'index.html'}", highlight=False)
    else:
        console.print(f"run: {run.paths.folder}", highlight=False)


def print_losses(console: Console, record: RunRecord) -> None:
    """Print what a run's steps lost and made good, a line a step; nothing where nothing was lost."""
    for line in losses_of(record):
        console.print(line, markup=False, highlight=False)


def _print_orchestration(console: Console, record: RunRecord, pending: Sequence[str], *, wall: float) -> None:
    """Tell how much of the wall time was not the steps' own work, and whose it was."""
    startup = sum(seconds for what, seconds in record.timings.items() if what.endswith("workers"))
    work = sum(record.steps[step].seconds for step in pending) - startup
    overhead = wall - work
    parts = {**record.timings, "prefect and imports": overhead - sum(record.timings.values())}
    words = ", ".join(f"{what} {seconds:.1f}" for what, seconds in parts.items())
    console.print(f"wall {wall:.1f} s, of which orchestration {overhead:.1f} s ({words})", highlight=False)


def print_study(console: Console, result: Mapping[str, Any]) -> None:
    """Print a study's points and orders, of the object that the command gives as JSON."""
    points, orders = result["points"], result["orders"]
    shown = [name for name in ("w2", "w2_ratio") if any(name in point["metrics"] for point in points)]
    errors = ["error", "±"] if any(point["error"] is not None for point in points) else []
    rows = [
        (
            *(str(value) for value in point["values"].values()),
            str(point["evaluations"]),
            *(_short(point[key]) for key in ("error", "error_se") if errors),
            *(_short(point["metrics"].get(name)) for name in shown),
            f"{point['seconds']:.1f}",
        )
        for point in points
    ]
    shorts = short_keys(list(points[0]["values"]))
    print_table(console, (*shorts.values(), "evaluations", *errors, *shown, "seconds"), rows)
    if orders:
        console.print()
        header = ("quantity", "against", "series", "order", "±", "last two", "theory")
        print_table(console, header, [_order_row(order, shorts) for order in orders])
    if result["reference"]:
        error = result["reference_error"]
        own = "" if error is None else f", whose own error is about {error:.1e}"
        console.print(f"end states are compared with {result['reference']}{own}", markup=False, highlight=False)


def _order_row(order: Mapping[str, Any], shorts: Mapping[str, str]) -> tuple[str, ...]:
    series = ", ".join(v if isinstance(v, str) else f"{shorts[k]} {v}" for k, v in order["series"].items())
    numbers = (_short(order[key], digits=3) for key in ("observed", "se", "last", "theory"))
    return order["quantity"], shorts.get(order["against"], order["against"]), series, *numbers


def _short(value: float | None, *, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


def print_json(value: Any) -> int:
    """Print the one object of ``--json``, and give the exit code of a command that is done."""
    print(json.dumps(value, indent=1))  # noqa: T201
    return DONE


def run_json(run: Run, record: RunRecord, pending: Sequence[str]) -> dict[str, Any]:
    """Give what ``--json`` says of a run that has just taken its pending steps."""
    return {
        "run": record.name,
        "path": str(run.paths.folder),
        "steps": {
            step: {"status": "done" if step in pending else "reused", "seconds": record.steps[step].seconds}
            for step in run.steps
        },
        "metrics": dict(record.metrics),
        "metrics_detail": dict(record.metrics_detail),
        "advice": advice_of(record),
    }
