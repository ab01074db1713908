"""What SIGINT and SIGTERM do to a command: both end it in an orderly way, whatever engine is at work.

Prefect replaces the handler of SIGTERM inside a flow and Ray Train that of SIGINT inside a training, so a SIGTERM is
passed on as SIGINT, to whoever handles that now. In a flow that a Prefect worker runs, nothing is installed and
Prefect's own handling stands.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_asked: list[int] = []
_is_installed = False


def install() -> None:
    """Handle both signals in this process, which runs one command."""
    global _is_installed
    _is_installed = True
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def was_asked_to_stop() -> bool:
    """Tell whether a signal came; engines turn the interruption that it causes into errors of their own."""
    return bool(_asked)


@contextmanager
def kept() -> Iterator[None]:
    """Put the handler of SIGTERM back where an engine took it, if a command installed one."""
    if not _is_installed:
        yield
        return
    taken = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, taken)


def _stop(number: int, _: FrameType | None) -> None:
    _asked.append(number)
    if number == signal.SIGTERM:
        signal.raise_signal(signal.SIGINT)
    else:
        raise KeyboardInterrupt
