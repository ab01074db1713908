"""How far a step is: who hears of it (whoever listens in this context, and nobody by default), and how fast it goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Protocol

from storage.paths import Location
from storage.progress import News, write_news
from tasks.specs import ChunkFacts

_NEWS_SECONDS = 1.0  # between two files for those who look; one takes a quarter of a millisecond
_MEASURED_SECONDS = 1.0  # before a rate means anything


class Listener(Protocol):
    """Hears of steps while they run."""

    def began(self, step: str) -> None:
        """A step starts to work."""
        ...

    def moved(self, step: str, done: int, total: int, words: str) -> None:
        """A step has done ``done`` of ``total``; ``words`` say of what, and how it goes."""
        ...

    def ended(self, step: str, *, seconds: float) -> None:
        """A step is done."""
        ...


class Silence:
    """Hears nothing."""

    def began(self, step: str) -> None:
        """Ignore it."""

    def moved(self, step: str, done: int, total: int, words: str) -> None:
        """Ignore it."""

    def ended(self, step: str, *, seconds: float) -> None:
        """Ignore it."""


_LISTENER: ContextVar[Listener] = ContextVar("charflow_listener")


class _AsOne:
    """Tells another listener of all steps as if they were one."""

    def __init__(self, name: str, listener: Listener) -> None:
        self._name = name
        self._listener = listener

    def began(self, step: str) -> None:
        """Ignore it: the one has begun."""

    def moved(self, step: str, done: int, total: int, words: str) -> None:
        """Pass it on under the one name."""
        self._listener.moved(self._name, done, total, f"{step}, {words}")

    def ended(self, step: str, *, seconds: float) -> None:
        """Ignore it: the one goes on."""


def as_one(name: str, listener: Listener) -> Listener:
    """Give a listener by which all steps of a run move one bar of ``listener``, which begins and ends it itself."""
    return _AsOne(name, listener)


def current_listener() -> Listener:
    """Give who listens."""
    return _LISTENER.get(_SILENCE)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let ``listener`` hear of every step that runs inside."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


_SILENCE = Silence()


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

    def __call__(self, done: int, total: int, words: str, chunks: ChunkFacts | None = None, /) -> None:
        """Hear how far the step is."""
        now = time.monotonic()
        pace = self._stopwatch.moved(done, total, now=now)
        if now - self._written >= _NEWS_SECONDS or done >= total:
            self._written = now
            self._write(done, total, words, pace, chunks)

    def _write(self, done: int, total: int, words: str, pace: Pace, chunks: ChunkFacts | None) -> None:
        news = News(
            step=self._step,
            done=done,
            total=total,
            words=words,
            **asdict(pace),
            told=time.time(),
            **(asdict(chunks) if chunks else {}),
        )
        write_news(self._path, news)
