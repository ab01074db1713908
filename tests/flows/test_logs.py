"""The log as JSON: what each record holds, who gives it, and that nothing else is written."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows import logs
from flows.logs import JsonFormatter, StepLog
from flows.progress import about, listening, told
from storage.errors import InputError
from tests.end_to_end.command import ROOT, environment


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Give what charflow's loggers write, as JSON."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    loggers = [logging.getLogger(name) for name in ("flows", "flows.logs", "tasks", "foreign")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    root = logging.getLogger()
    root.addHandler(handler)
    yield out
    root.removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_record_tells_when_where_and_what_and_the_facts_that_its_layer_gave(log: io.StringIO) -> None:
    with about(run="moons"), about(step="integrate"):
        logging.getLogger("tasks.integrate").debug("chunk %d", 7, extra={"chunk": 7, "rows": 64})
    logging.getLogger("tasks.integrate").info("a\nb")
    one, other = records(log.getvalue())
    assert list(one)[:4] == ["time", "level", "logger", "message"]
    time = datetime.fromisoformat(one["time"])
    assert time.utcoffset() == timedelta(0)
    assert len(one["time"]) == len("2026-01-31T12:00:00.000+00:00")
    facts = {"level": "debug", "logger": "tasks.integrate", "message": "chunk 7", "run": "moons", "step": "integrate"}
    assert facts.items() <= one.items()
    assert {"chunk": 7, "rows": 64}.items() <= one.items()
    assert one.keys() == facts.keys() | {"time", "host", "pid", "chunk", "rows"}
    assert other["message"] == "a\nb"
    assert not {"run", "step"} & other.keys()


def test_facts_of_other_libraries_are_left_out_and_none_replaces_what_every_record_has(log: io.StringIO) -> None:
    logging.getLogger("foreign.part").warning("hello", extra={"password": "secret"})
    logging.getLogger("tasks.part").warning(
        "hello", extra={"pid": "mine", "loss": float("nan"), "path": Path("a"), "_ray": 1}
    )
    theirs, ours = records(log.getvalue())
    assert "password" not in theirs
    assert isinstance(ours["pid"], int)
    assert (ours["loss"], ours["path"]) == ("nan", "a")
    assert "_ray" not in ours


def test_an_error_has_type_and_message_and_where_it_came_from_at_debug_alone(log: io.StringIO) -> None:
    error = ValueError("bad\nluck")
    for level in (logging.ERROR, logging.DEBUG):
        logging.getLogger("flows.part").log(level, "failed", exc_info=error)
    one, other = (record["error"] for record in records(log.getvalue()))
    assert one == {"type": "ValueError", "message": "bad\nluck"}
    assert other["traceback"].startswith("ValueError: bad")


def test_a_step_tells_its_begin_and_its_end_and_records_inside_know_it(log: io.StringIO) -> None:
    with listening(StepLog()), told("integrate", run="moons") as step:
        logging.getLogger("tasks.part").info("inside")
        step.seconds = 2.5
    logging.getLogger("tasks.part").info("outside")
    began, inside, ended, outside = records(log.getvalue())
    assert (began["event"], ended["event"], ended["seconds"]) == ("began", "ended", 2.5)
    assert {(r["run"], r["step"]) for r in (began, inside, ended)} == {("moons", "integrate")}
    assert "step" not in outside


@pytest.mark.parametrize(
    ("error", "event", "level"), [(OSError, "failed", "error"), (KeyboardInterrupt, "interrupted", "warning")]
)
def test_a_step_that_does_not_end_well_tells_what_stopped_it(
    log: io.StringIO, error: type[BaseException], event: str, level: str
) -> None:
    with pytest.raises(error), listening(StepLog()), told("ingest"):
        raise error("no disk")
    found = records(log.getvalue())[-1]
    assert (found["event"], found["level"], found["step"]) == (event, level, "ingest")
    assert found["error"] == {"type": error.__name__, "message": "no disk"}


def test_progress_is_told_every_few_seconds_with_its_rate(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("flows.logs.time.monotonic", lambda: now)
    step = StepLog()
    step.moved("integrate", 1, 5000, "trajectories")  # which has not begun
    step.began("integrate")
    for k in range(121):
        now = k / 10
        step.moved("integrate", k * 10, 5000, "trajectories")
    _, *found = records(log.getvalue())
    assert [record["done"] for record in found] == [500, 1000]
    assert {(record["total"], record["words"], record["event"]) for record in found} == {
        (5000, "trajectories", "moved")
    }
    assert [record["rate"] for record in found] == [pytest.approx(100.0)] * 2


@pytest.mark.parametrize(
    ("asked", "set_to", "message"),
    [("xml", "json", "--log must be one of text, json, got 'xml'"), ("", "JSON", "CHARFLOW_LOG must be one of text, ")],
)
def test_another_kind_of_log_is_bad_input(
    asked: str, set_to: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARFLOW_LOG", set_to)
    with pytest.raises(InputError, match=message):
        logs.install(asked)


def told_by(code: str, tmp_path: Path, *, kind: str = "") -> tuple[int, str, str]:
    """Run a program with ``CHARFLOW_LOG`` set to a kind; give its exit code and both outputs."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path) | {"CHARFLOW_LOG": kind},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


COMMAND = "import sys; from flows.cli import main; main(sys.argv[1:] or {words!r})"


def test_bad_input_is_one_record_and_exit_code_two(tmp_path: Path) -> None:
    for words, error in (
        (["show", "ghost", "--root", str(tmp_path / "none")], "UnknownRunError"),
        (["fly"], "InputError"),
    ):
        code, out, err = told_by(COMMAND.format(words=words), tmp_path, kind="json")
        (found,) = records(err)
        assert (code, out, found["level"], found["error"]["type"]) == (2, "", "error", error)
        assert "traceback" not in found["error"]
    assert records(err)[0]["message"].startswith("argument COMMAND: invalid choice: 'fly'")


def test_an_unknown_kind_is_one_line_that_tells_key_value_and_what_is_allowed(tmp_path: Path) -> None:
    line = "charflow: CHARFLOW_LOG must be one of text, json, got 'xml'\n"
    assert told_by(COMMAND.format(words=["presets"]), tmp_path, kind="xml") == (2, "", line)
    line = "charflow: --log must be one of text, json, got 'xml'\n"
    assert told_by(COMMAND.format(words=["run", "moons", "--log", "xml"]), tmp_path) == (2, "", line)
    assert list(tmp_path.iterdir()) == []


STRAY = """
import sys, threading, warnings
from flows import logs
logs.install("")
warnings.warn("mind the gap")
print("two\\nlines", file=sys.stderr)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
logs.logger.error("%d", "not a number")
sys.stderr.write("no end")
"""


def test_what_others_write_to_standard_error_becomes_records(tmp_path: Path) -> None:
    code, _, err = told_by(STRAY.replace('\nlogs.logger.error("%d", "not a number")', ""), tmp_path, kind="json")
    found = records(err)
    assert code == 0
    assert found[0]["logger"] == "py.warnings"
    assert [record["message"] for record in found[1:3]] == ["two", "lines"]
    assert {record["logger"] for record in found[1:]} == {"stderr"}
    assert "ZeroDivisionError: division by zero" in [record["message"] for record in found]
    assert found[-1]["message"] == "no end"


def test_a_record_that_cannot_be_written_is_told_of_and_stops_nothing(tmp_path: Path) -> None:
    code, _, err = told_by(STRAY, tmp_path, kind="json")
    assert code == 0
    assert "Logging error" in err
    assert err.splitlines()[-1].count("no end") == 1
