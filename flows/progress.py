"""How far a step is: who hears of it (whoever listens in this context, and nobody by default), and how fast it goes.

What is worked on in a context, its run and step, is known here as well, for layers below need not say it.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Protocol

from storage.paths import Location
from storage.progress import News, write_news
from tasks.facts import ChunkFacts, Facts

_NEWS_SECONDS = 1.0  # between two files for those who look; one takes a quarter of a millisecond
_MEASURED_SECONDS = 1.0  # before a rate means anything


class Listener(Protocol):
    """Hears of steps while they run; of which run, :func:`worked_on` tells."""

    def began(self, step: str) -> None:
        """A step starts to work."""
        ...

    def moved(self, step: str, done: int, total: int, words: str, facts: Facts | None = None) -> None:
        """A step has done ``done`` of ``total``; ``words`` say of what, and how it goes, ``facts`` more of some."""
        ...

    def ended(self, step: str, *, seconds: float) -> None:
        """A step is done."""
        ...

    def failed(self, step: str, error: BaseException, *, seconds: float) -> None:
        """A step ended by an error or an interruption, which is raised."""
        ...

    def member(self, name: str) -> AbstractContextManager["Listener"]:
        """Give who hears of the steps of one run of many, while that is worked on."""
        ...


class Listeners:
    """Several listeners, each of which hears everything; none of them is silence."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def began(self, step: str) -> None:
        """Tell all."""
        for listener in self._listeners:
            listener.began(step)

    def moved(self, step: str, done: int, total: int, words: str, facts: Facts | None = None) -> None:
        """Tell all."""
        for listener in self._listeners:
            listener.moved(step, done, total, words, facts)

    def ended(self, step: str, *, seconds: float) -> None:
        """Tell all."""
        for listener in self._listeners:
            listener.ended(step, seconds=seconds)

    def failed(self, step: str, error: BaseException, *, seconds: float) -> None:
        """Tell all."""
        for listener in self._listeners:
            listener.failed(step, error, seconds=seconds)

    @contextmanager
    def member(self, name: str) -> Iterator["Listener"]:
        """Give all of them, each as it hears of one run of many."""
        with ExitStack() as stack:
            yield Listeners(*(stack.enter_context(listener.member(name)) for listener in self._listeners))


_SILENCE = Listeners()
_LISTENER: ContextVar[Listener] = ContextVar("charflow_listener", default=_SILENCE)
_RUN: ContextVar[str] = ContextVar("charflow_run", default="")
_STEP: ContextVar[str] = ContextVar("charflow_step", default="")


def current_listener() -> Listener:
    """Give who listens."""
    return _LISTENER.get()


def is_heard() -> bool:
    """Tell whether anyone listens."""
    return _LISTENER.get() is not _SILENCE


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let ``listener`` hear of every step that runs inside."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def about(*, run: str = "", step: str = "") -> Iterator[None]:
    """Let what is told inside be of a run and a step; what is empty stays as it is outside."""
    tokens = [(variable, variable.set(name)) for variable, name in ((_RUN, run), (_STEP, step)) if name]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


def name_run(run: str) -> None:
    """Let what this command tells be of a run to the very end, which tells what went wrong."""
    _RUN.set(run)


def worked_on() -> tuple[str, str]:
    """Give the run and the step that are worked on in this context, empty where there is none."""
    return _RUN.get(), _STEP.get()


class Telling:
    """Passes on how far a step is."""

    def __init__(self, step: str, listener: Listener) -> None:
        self.seconds: float | None = None  # that the step took, where it knows better than the clock here
        self._step, self._listener = step, listener
        self._began = time.monotonic()

    def __call__(self, done: int, total: int, words: str, facts: Facts | None = None, /) -> None:
        """Hear how far the step is."""
        self._listener.moved(self._step, done, total, words, facts)

    def took(self) -> float:
        """Give the seconds that the step took so far."""
        return time.monotonic() - self._began if self.seconds is None else self.seconds


@contextmanager
def told(step: str, *, run: str = "") -> Iterator[Telling]:
    """Tell whoever listens of a step's begin and its end, and give what tells of its progress."""
    listener = current_listener()
    with about(run=run, step=step):
        listener.began(step)
        telling = Telling(step, listener)
        try:
            yield telling
        except BaseException as error:
            listener.failed(step, error, seconds=telling.took())
            raise
        listener.ended(step, seconds=telling.took())


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a step goes; None where that is not known yet."""

    rate: float | None  # of what is done, a second
    seconds_left: float | None


class Stopwatch:
    """Measures a step's pace from the first that it told: what was done before took no time of this process."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def moved(self, done: int, total: int, *, now: float) -> Pace:
        """Give the pace when ``done`` of ``total`` is told at the second ``now``."""
        if self._first is None or done < self._first[0]:  # a bar of several steps begins anew with each
            self._first = (done, now)
        first_done, first_told = self._first
        items, seconds = done - first_done, now - first_told
        if items <= 0 or seconds <= _MEASURED_SECONDS:
            return Pace(rate=None, seconds_left=None)
        return Pace(rate=items / seconds, seconds_left=(total - done) * seconds / items)


def rate_words(pace: Pace) -> str:
    """Give the rate as ``1,234/s``; nothing where it is not known."""
    return "" if pace.rate is None else f"{pace.rate:,.{0 if pace.rate >= 10 else 1}f}/s"


def pace_words(pace: Pace) -> str:
    """Give the pace as ``1,234/s, 0:02:05 left``; nothing where it is not known."""
    if pace.rate is None or pace.seconds_left is None:
        return ""
    return f"{rate_words(pace)}, {timedelta(seconds=round(pace.seconds_left))} left"


class ProgressFile:
    """Keeps what a step tells in its run's folder, at most once a second, for ``charflow show`` elsewhere."""

    def __init__(self, path: Location, step: str) -> None:
        self._path, self._step = path, step
        self._stopwatch = Stopwatch()
        self._written = time.monotonic()
        self._write(0, 0, "", Pace(rate=None, seconds_left=None), None)

    def __call__(self, done: int, total: int, words: str, facts: Facts | None = None, /) -> None:
        """Hear how far the step is."""
        now = time.monotonic()
        pace = self._stopwatch.moved(done, total, now=now)
        if now - self._written >= _NEWS_SECONDS or done >= total:
            self._written = now
            self._write(done, total, words, pace, facts)

    def _write(self, done: int, total: int, words: str, pace: Pace, facts: Facts | None) -> None:
        news = News(step=self._step, done=done, total=total, words=words, **asdict(pace), told=time.time())
        if isinstance(facts, ChunkFacts):
            news = replace(
                news,
                bytes=facts.bytes,
                slowest_chunk=facts.slowest_chunk,
                slowest_seconds=facts.slowest_seconds,
                again=facts.again,
            )
        write_news(self._path, news)
