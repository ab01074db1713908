"""Logs as JSON, a record a line, for whoever gathers them; ``text``, the default, is what the other modules print.

What a record is about (run and step) is known here, through context variables that are set where a run is worked on and
a step performed. Layers below give their own facts by logging's ``extra``, and know nothing of this.
"""

import io
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from flows.progress import Stopwatch
from storage.errors import InputError

logger = logging.getLogger(__name__)

KINDS = ("text", "json")

_PROGRESS_SECONDS = 5.0  # between two records of how far a step is
PACKAGES = ("flows", "tasks", "storage")  # whose records are ours
_RUN: ContextVar[str] = ContextVar("charflow_run", default="")
_STEP: ContextVar[str] = ContextVar("charflow_step", default="")
_OF_EVERY_RECORD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

_is_json = False


def install(asked: str) -> None:
    """Log in this process, which runs one command, as ``--log`` asks, else as the environment does.

    As JSON, standard error belongs to the log: what anyone else writes there becomes records of a logger ``stderr``.

    Raises:
        InputError: there is no such kind.
    """
    global _is_json
    key, kind = ("--log", asked) if asked else ("CHARFLOW_LOG", os.environ.get("CHARFLOW_LOG") or "text")
    if kind not in KINDS:
        raise InputError(f"{key} must be one of {', '.join(KINDS)}, got {kind!r}")
    _is_json = kind == "json"
    if not _is_json:
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
        logger.setLevel(logging.CRITICAL)  # bars and lines tell of steps
        return
    handler = JsonHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in (*PACKAGES, __name__):
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    sys.stderr = _Lines()


def is_json() -> bool:
    """Tell whether records go out as JSON, so that nothing else may go to standard error."""
    return _is_json


@contextmanager
def about(*, run: str = "", step: str = "") -> Iterator[None]:
    """Let records that are made inside know their run and step; what is empty stays as it is outside."""
    tokens = [(variable, variable.set(name)) for variable, name in ((_RUN, run), (_STEP, step)) if name]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


def name_run(run: str) -> None:
    """Let records of this command know its run to the very end, which tells what went wrong."""
    _RUN.set(run)


class StepLog:
    """What is logged of a step while it works."""

    def __init__(self, step: str) -> None:
        self.seconds: float | None = None  # that the step took, where it knows better than the clock here
        self._step = step
        self._began = self._told = time.monotonic()
        self._stopwatch = Stopwatch()

    def moved(self, done: int, total: int, words: str) -> None:
        """Log how far the step is, if the last such record is old enough."""
        now = time.monotonic()
        rate = self._stopwatch.moved(done, total, now=now).rate
        if now - self._told >= _PROGRESS_SECONDS:
            self._told = now
            facts: dict[str, Any] = {"event": "moved", "done": done, "total": total, "words": words}
            facts |= {} if rate is None else {"rate": round(rate, 3)}
            logger.info("%s: %d of %d %s", self._step, done, total, words, extra=facts)

    def ended(self, error: BaseException | None = None) -> None:
        """Log the end, well or not."""
        seconds = time.monotonic() - self._began if self.seconds is None else self.seconds
        match error:
            case None:
                level, event, words = logging.INFO, "ended", "done in"
            case Exception():
                level, event, words = logging.ERROR, "failed", "failed after"
            case _:
                level, event, words = logging.WARNING, "interrupted", "interrupted after"
        facts = {"event": event, "seconds": round(seconds, 3)}
        logger.log(level, "%s %s %.1f s", self._step, words, seconds, extra=facts, exc_info=error)


@contextmanager
def told(step: str, *, run: str = "") -> Iterator[StepLog]:
    """Log the begin and the end of a step, and let records that are made inside know it and its run."""
    with about(run=run, step=step):
        logger.info("%s ...", step, extra={"event": "began"})
        log = StepLog(step)
        try:
            yield log
        except BaseException as error:
            log.ended(error)
            raise
        log.ended()


class JsonFormatter(logging.Formatter):
    """Gives a record as one JSON object: where it comes from, what it says, and the facts of charflow's own records.

    Facts of other libraries' records are left out: nobody here knows what is in them. A traceback is in records of the
    level debug alone.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Give one line, without its end."""
        found: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        found |= {name: value for name, value in (("run", _RUN.get()), ("step", _STEP.get())) if value}
        found |= {"host": os.uname().nodename, "pid": record.process}
        if record.name.partition(".")[0] in PACKAGES:
            taken = _OF_EVERY_RECORD | found.keys()
            facts = {name: fact for name, fact in record.__dict__.items() if name not in taken and name[0] != "_"}
            found |= {name: _plain(fact) for name, fact in facts.items()}  # those with _ are Ray's, of its own factory
        if record.exc_info and (error := record.exc_info[1]) is not None:
            found["error"] = {"type": type(error).__name__, "message": str(error)}
            if record.levelno <= logging.DEBUG:
                found["error"]["traceback"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


class JsonHandler(logging.StreamHandler[Any]):
    """Writes to what was standard error before the log took it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Tell there of a record that could not be written, and not in one more record."""
        with redirect_stderr(self.stream):
            super().handleError(record)


def _plain(fact: object) -> object:
    """Give a number that is not finite, which JSON does not know, in words."""
    return str(fact) if isinstance(fact, float) and not math.isfinite(fact) else fact


class _Lines(io.TextIOBase):
    """Stands for standard error and makes a record of every line: of Ray's news of lost workers, of a thread's end."""

    def __init__(self) -> None:
        self._rest = ""
        self._lock = threading.RLock()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            logging.getLogger("stderr").warning("%s", line)
        return len(text)

    def flush(self) -> None:
        if self._rest:
            self.write("\n")
