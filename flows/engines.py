"""A command's flow, called under a Prefect API, with bars for a person to watch."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from flows.display import Bars
from flows.logs import told
from flows.progress import listening
from storage.errors import InputError


def call_flow(load: Callable[[], Callable[[], None]], *, console: Console) -> None:
    """Call the flow that ``load`` imports, with a private API unless the user has one.

    Raises:
        InputError: the API that the user named does not answer, or a private one does not start.
    """
    from flows.server import prefect_api

    with Bars(console).shown() as listener, prefect_api(_state_folder()) as wait:
        began = time.monotonic()
        listener.began("engines")
        with told("engines"):
            call = load()  # slow, while the server starts
            try:
                wait()
            except ConnectionError as error:
                raise InputError(str(error)) from error
        listener.ended("engines", seconds=time.monotonic() - began)

        for name in ("prefect.flow_runs", "prefect.task_runs"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they would say, we say in one line
        with listening(listener):
            call()


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "charflow" / "prefect"
