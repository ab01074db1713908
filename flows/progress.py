"""Who hears how far a step is: whoever listens in this context, and nobody by default."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


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
