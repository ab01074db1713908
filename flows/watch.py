"""A run at work in another process, followed as it goes: what ``charflow show --watch`` tells.

All of it is read from the run's folder, so watching costs the run nothing, and leaving changes nothing.
"""

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.display import DONE, ERR, FAILED, INTERRUPTED, OUT
from flows.progress import Pace, pace_words
from flows.runs import Run, reopen
from flows.selection import status_of
from flows.stages import STEPS
from flows.standing import Standing, news_words, standing
from storage.catalog import Catalog, RunRecord, is_alive
from storage.errors import IncompleteError
from storage.journal import read_journal
from tasks.facts import TrainingPlace

_LOOK_SECONDS = 1.0  # between looks, at least
_LOOK_SHARE = 0.1  # of the time that goes into looking, at most: a long journal or ledger takes its time
_LINE_SECONDS = 5.0  # between lines of one step
_NEW_SECONDS = 300.0  # that a run may be about to begin: engines start
_BARS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 48


@dataclass(frozen=True, kw_only=True)
class Sight:
    """A run at one moment."""

    record: RunRecord
    status: str  # as a person sees it
    states: dict[str, str]  # by step, in words; empty for one that waits
    standing: Standing | None
    losses: tuple[float, ...] = ()  # of the training at work, so far

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.status not in ("new", "running")

    @property
    def step(self) -> str:
        """The step at work, or at which the run stopped; empty where it is not known."""
        return self.standing.news.step if self.standing and self.standing.news else ""


def look(catalog: Catalog, name: str) -> Sight:
    """See a run as it is now.

    Raises:
        UnknownRunError: there is none of that name.
    """
    record = catalog.get(name)
    try:
        run, found = reopen(catalog, name), standing(catalog, record)
    except IncompleteError:  # its configuration is written just now
        return Sight(record=record, status=status_of(record), states=dict.fromkeys(STEPS, ""), standing=None)
    states = {step: _state(run, step, found) for step in STEPS}
    return Sight(
        record=record, status=status_of(record), states=states, standing=found, losses=tuple(_losses(run, found))
    )


def _state(run: Run, step: str, found: Standing | None) -> str:
    if run.serves(step):
        stage = run.record.steps[step]
        where = "" if stage.holder == run.record.name else f", from run {stage.holder}"
        return f"done in {stage.seconds:,.1f} s{where}"
    told = found.news.step if found and found.news else ""
    is_beside = step == "integrate" and told == "train_generator"  # which tells for both
    if found is None or (step != told and not is_beside):
        return ""
    return "at work" if found.is_at_work else "stopped"


def _losses(run: Run, found: Standing | None) -> Iterator[float]:
    """Give the losses of the training of which the last news is."""
    folders = {"fit_velocity": run.paths.velocity, "train_generator": run.paths.generator}
    step = found.news.step if found and found.news else ""
    if step in folders:
        with suppress(OSError):  # of a store that does not answer now
            journal = TrainingPlace(folder=folders[step], key=run.keys[step]).journal
            yield from (record["loss"] for record in read_journal(journal))


def follow(catalog: Catalog, name: str) -> Iterator[Sight]:
    """See a run again and again until it is over, or never began."""
    since = time.monotonic()
    while True:
        began = time.monotonic()
        sight = look(catalog, name)
        yield sight
        if sight.is_over or (sight.status == "new" and began - since > _NEW_SECONDS):
            return
        took = time.monotonic() - began
        time.sleep(max(_LOOK_SECONDS, took / _LOOK_SHARE))


def watch(catalog: Catalog, name: str, *, is_quiet: bool = False) -> int:
    """Show a run until it is over, and give the exit code: whether it ended well.

    On a terminal the view is replaced as it changes; elsewhere a line is printed when something did; where it is
    ``is_quiet``, for one object of JSON follows, nothing is.
    """
    sights = follow(catalog, name)
    shown = sights if is_quiet else _live(sights, OUT) if OUT.is_terminal else _lined(sights, OUT)
    try:
        last = deque(shown, maxlen=1).pop()
    except KeyboardInterrupt:
        ERR.print("charflow: not watched any more; the run goes on", highlight=False)
        return INTERRUPTED
    return DONE if last.status in ("finished", "partial") else FAILED


def _live(sights: Iterator[Sight], console: Console) -> Iterator[Sight]:
    """Replace what a terminal shows by each sight."""
    with Live(console=console, auto_refresh=False) as live:
        for sight in sights:
            live.update(view(sight), refresh=True)
            yield sight


def _lined(sights: Iterator[Sight], console: Console) -> Iterator[Sight]:
    """Print a line of what is new: a step or a status at once, how far a step is every few seconds."""
    printed, moment = ("", ""), -math.inf
    told = ""
    for sight in sights:
        now, place, text = time.monotonic(), (sight.status, sight.step), line(sight)
        if place != printed or (text != told and now - moment >= _LINE_SECONDS):
            console.print(text, markup=False, highlight=False)
            printed, moment, told = place, now, text
        yield sight


def line(sight: Sight) -> str:
    """Tell all that is known now in one line."""
    parts = [f"{sight.record.name}: {sight.status}", _news(sight), _chunks(sight), _worry(sight)]
    return "; ".join(part for part in parts if part)


def view(sight: Sight) -> RenderableType:
    """Give what a terminal shows: a row a step, and below it chunks, the loss and what was told last."""
    steps = Table.grid(padding=(0, 2))
    for step, state in sight.states.items():
        is_here = step == sight.step and not state.startswith("done")
        steps.add_row(Text(step), _bar(sight) if is_here else Text(state or "waits"), Text(state if is_here else ""))
    head = Text(f"{sight.record.name}: {sight.status}", style="bold")
    below = (_chunks(sight), _curve(sight), _news(sight), _worry(sight))
    return Group(head, steps, *(Text(part) for part in below if part))


def _bar(sight: Sight) -> RenderableType:
    news = sight.standing.news if sight.standing else None
    if news is None or not news.total:
        return Text("begins")
    row = Table.grid(padding=(0, 1))
    row.add_row(
        ProgressBar(total=news.total, completed=news.done, width=32),
        Text(f"{news.done:,}/{news.total:,}"),
        Text(pace_words(Pace(rate=news.rate, seconds_left=news.seconds_left)) if not sight.is_over else ""),
    )
    return row


def _news(sight: Sight) -> str:
    found = sight.standing
    return news_words(found.news, is_at_work=found.is_at_work) if found and found.news else ""


def _chunks(sight: Sight) -> str:
    """Tell how many chunks are committed, and how many were given to a second worker."""
    found = sight.standing
    again = len(found.news.again) if found and found.news else 0
    committed = found.coverage if found else None
    parts = [
        f"{committed.committed:,} of {committed.chunks:,} chunks are committed" if committed else "",
        f"{again:,} tried again" if again else "",
    ]
    return ", ".join(part for part in parts if part)


def _curve(sight: Sight) -> str:
    return f"loss {sparkline(sight.losses)} {sight.losses[-1]:.4g}" if sight.losses else ""


def _worry(sight: Sight) -> str:
    """Tell what a person should know beside how far the run is: what ended it, or that nothing is heard of it."""
    record, found = sight.record, sight.standing
    if sight.status == "failed":
        return record.error
    if record.status == "running" and not is_alive(record):
        return f"its process {record.pid} is gone; the same command goes on from there"
    if sight.status == "new":
        return "no process works on it yet"
    silent = found.age_seconds if found and found.news and not sight.is_over else 0.0
    if silent < 60:
        return ""
    return f"nothing was told for {timedelta(seconds=round(silent))} by process {record.pid} on {record.host}"


def sparkline(values: Sequence[float], *, width: int = _CURVE_WIDTH) -> str:
    """Give a curve in a line: means of equal parts, from the least to the greatest, of their logarithms where all have.

    Values that are not finite are shown as ``?``.
    """
    size = max(1, math.ceil(len(values) / width))
    means = [sum(part) / len(part) for k in range(0, len(values), size) if (part := values[k : k + size])]
    finite = [mean for mean in means if math.isfinite(mean)]
    is_logarithmic = bool(finite) and min(finite) > 0
    heights = [math.log(mean) if is_logarithmic and math.isfinite(mean) else mean for mean in means]
    known = [height for height in heights if math.isfinite(height)]
    low, span = min(known, default=0.0), (max(known, default=0.0) - min(known, default=0.0)) or 1.0
    return "".join(
        _BARS[round((height - low) / span * (len(_BARS) - 1))] if math.isfinite(height) else "?" for height in heights
    )
