"""Logs as JSON, a record a line, for whoever gathers them; ``text``, the default, is what the other modules print.

What a record is about (run and step) is known to progress.py, by what is worked on in the context. Layers below give
their own facts by logging's ``extra``, and know nothing of this.
"""

import io
import json
import logging
import math
import os
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from datetime import UTC, datetime
from typing import Any

from flows.progress import Listener, Stopwatch, worked_on
from storage.errors import InputError
from tasks.facts import Facts

logger = logging.getLogger(__name__)

KINDS = ("text", "json")

_PROGRESS_SECONDS = 5.0  # between two records of how far a step is
PACKAGES = ("flows", "tasks", "storage")  # whose records are ours
_OF_EVERY_RECORD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}

_kind = ""  # until something installs one


def install(asked: str) -> None:
    """Log in this process, which runs one command or one flow, as ``--log`` asks, else as the environment does.

    As JSON, standard error belongs to the log: what anyone else writes there becomes records of a logger ``stderr``.

    Raises:
        InputError: there is no such kind.
    """
    global _kind
    key, kind = ("--log", asked) if asked else ("CHARFLOW_LOG", os.environ.get("CHARFLOW_LOG") or "text")
    if kind not in KINDS:
        raise InputError(f"{key} must be one of {', '.join(KINDS)}, got {kind!r}")
    _kind = kind
    if kind == "text":
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
        logger.setLevel(logging.CRITICAL)  # bars and lines tell of steps
        return
    handler = JsonHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _silence_others()
    for name in (*PACKAGES, __name__):
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    sys.stderr = _Lines()


def is_installed() -> bool:
    """Tell whether this process logs already as it was asked to."""
    return _kind != ""


def is_json() -> bool:
    """Tell whether records go out as JSON, so that nothing else may go to standard error."""
    return _kind == "json"


def _silence_others() -> None:
    """Let loggers that write to standard error themselves, as those of a Prefect worker's flow do, pass records on."""
    for other in [found for found in logging.Logger.manager.loggerDict.values() if isinstance(found, logging.Logger)]:
        for handler in list(other.handlers):
            if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stderr, sys.__stderr__):
                other.removeHandler(handler)
                other.propagate = True


class StepLog:
    """Logs what steps tell: begin, end, and every few seconds how far they are."""

    def __init__(self) -> None:
        self._working: dict[str, tuple[Stopwatch, float]] = {}  # by step, with when it was told of

    def began(self, step: str) -> None:
        """Log the begin."""
        self._working[step] = Stopwatch(), time.monotonic()
        logger.info("%s ...", step, extra={"event": "began"})

    def moved(self, step: str, done: int, total: int, words: str, facts: Facts | None = None) -> None:
        """Log how far the step is, if the last such record is old enough; its facts are in records of its own."""
        if step not in self._working:
            return
        stopwatch, last = self._working[step]
        now = time.monotonic()
        rate = stopwatch.moved(done, total, now=now).rate
        if now - last >= _PROGRESS_SECONDS:
            self._working[step] = stopwatch, now
            said: dict[str, Any] = {"event": "moved", "done": done, "total": total, "words": words}
            said |= {} if rate is None else {"rate": round(rate, 3)}
            logger.info("%s: %d of %d %s", step, done, total, words, extra=said)

    def ended(self, step: str, *, seconds: float) -> None:
        """Log the end."""
        said = {"event": "ended", "seconds": round(seconds, 3)}
        logger.info("%s done in %.1f s", step, seconds, extra=said)

    def failed(self, step: str, error: BaseException, *, seconds: float) -> None:
        """Log what ended the step."""
        is_failure = isinstance(error, Exception)
        level, event = (logging.ERROR, "failed") if is_failure else (logging.WARNING, "interrupted")
        said = {"event": event, "seconds": round(seconds, 3)}
        logger.log(level, "%s %s after %.1f s", step, event, seconds, extra=said, exc_info=error)

    def member(self, name: str) -> AbstractContextManager[Listener]:
        """Give itself: a record names its run."""
        return nullcontext(self)


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
        found |= {name: value for name, value in zip(("run", "step"), worked_on(), strict=True) if value}
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
