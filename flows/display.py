"""What a person sees: a bar for each working step, tables at the end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from flows.progress import Listener, Stopwatch, rate_words


class Bars:
    """A live bar a step on a terminal; a line at the start and end of a step elsewhere."""

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
        self._bar: TaskID | None = None  # of the step that works now
        self._stopwatch = Stopwatch()

    @contextmanager
    def shown(self) -> Iterator[Listener]:
        """Draw while inside."""
        if not self._console.is_terminal:
            yield self
            return
        with self._bars:
            yield self

    def began(self, step: str) -> None:
        """Open the step's bar; the bar before it is full."""
        if not self._console.is_terminal:
            self._console.print(f"{step} ...", highlight=False)
            return
        self._fill()
        self._bar = self._bars.add_task(step, total=None, count="", rate="", words="")
        self._stopwatch = Stopwatch()

    def moved(self, step: str, done: int, total: int, words: str) -> None:
        """Move the step's bar."""
        if self._bar is None:
            return
        rate = rate_words(self._stopwatch.moved(done, total, now=self._bars.tasks[-1].elapsed or 0.0))
        self._bars.update(self._bar, completed=done, total=total, count=f"{done:,}/{total:,}", rate=rate, words=words)

    def ended(self, step: str, *, seconds: float) -> None:
        """Fill the step's bar."""
        if self._console.is_terminal:
            self._fill()
        else:
            self._console.print(f"{step} done in {seconds:.1f} s", highlight=False)

    def _fill(self) -> None:
        if self._bar is not None:
            total = self._bars.tasks[-1].total or 1
            self._bars.update(self._bar, completed=total, total=total)
            self._bars.stop_task(self._bar)
            self._bar = None


def print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header, text to the left and numbers to the right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for k, name in enumerate(header):
        is_number = bool(rows) and all(_is_number(row[k]) for row in rows if row[k])
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False)


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


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
