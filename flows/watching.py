"""Who hears of the steps of a command or a flow: bars or the log, and whoever reads the metrics."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console

from flows import logs
from flows.display import ERR, Bars
from flows.progress import Listener, Listeners, is_heard, listening


@contextmanager
def watched(console: Console = ERR) -> Iterator[None]:
    """Let steps inside be heard of as the environment asks: ``CHARFLOW_LOG``, ``CHARFLOW_METRICS``.

    Where someone listens already nothing is added, so a flow asks for this whoever calls it: a command that did so
    before, or a Prefect worker's process, in which nobody has set up a log.

    Raises:
        InputError: what the environment asks for is none, or cannot be had.
    """
    if is_heard():
        yield
        return
    if not logs.is_installed():
        logs.install("")
    with ExitStack() as stack:
        listeners: list[Listener] = [stack.enter_context(Bars(console).shown())]
        if asked := os.environ.get("CHARFLOW_METRICS"):
            from flows.metrics import served  # its library is not needed otherwise

            listeners.append(stack.enter_context(served(asked)))
        stack.enter_context(listening(Listeners(*listeners)))
        yield
