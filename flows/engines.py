"""A command's flow, called under a Prefect API, with whoever is to hear of it."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from flows.progress import told
from flows.watching import watched
from storage.errors import InputError


def call_flow(load: Callable[[], Callable[[], None]], *, console: Console) -> None:
    """Call the flow that ``load`` imports, with a private API unless the user has one.

    Raises:
        InputError: the API that the user named does not answer, or a private one does not start.
    """
    from flows.server import TAG, prefect_api

    with watched(console), prefect_api(_state_folder()) as wait:
        with told("engines"):
            call = load()  # slow, while the server starts
            try:
                wait()
            except ConnectionError as error:
                raise InputError(str(error)) from error

        for name in ("prefect.flow_runs", "prefect.task_runs"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they would say, we say in one line
        from prefect import tags

        with tags(TAG):  # by which a server that others share knows them: flows/heartbeats.py
            call()


def _state_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "charflow" / "prefect"
