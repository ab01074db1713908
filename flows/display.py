"""What a person sees: a bar for each working step, tables at the end."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from flows.progress import Listener


class Bars:
    """A live bar a step on a terminal; a line a step elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[count]:>19} {task.fields[rate]:>12}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[words]}"),
            console=console,
            transient=False,
        )
        self._ids: dict[str, TaskID] = {}

    @contextmanager
    def shown(self) -> Iterator[Listener]:
        """Draw while inside."""
        if not self._console.is_terminal:
            yield self
            return
        with self._bars:
            yield self

    def began(self, step: str) -> None:
        """Open the step's bar."""
        if self._console.is_terminal:
            self._ids[step] = self._bars.add_task(step, total=None, count="", rate="", words="")
        else:
            self._console.print(f"{step} ...", highlight=False)

    def moved(self, step: str, done: int, total: int, words: str) -> None:
        """Move the step's bar."""
        if step not in self._ids:
            return
        bar = self._bars.tasks[list(self._ids).index(step)]
        rate = f"{done / bar.elapsed:,.0f}/s" if bar.elapsed else ""
        self._bars.update(
            self._ids[step], completed=done, total=total, count=f"{done:,}/{total:,}", rate=rate, words=words
        )

    def ended(self, step: str, *, seconds: float) -> None:
        """Fill the step's bar."""
        if step in self._ids:
            bar = self._bars.tasks[list(self._ids).index(step)]
            self._bars.update(self._ids[step], completed=bar.total or 1, total=bar.total or 1)
        else:
            self._console.print(f"{step} done in {seconds:.1f} s", highlight=False)


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
