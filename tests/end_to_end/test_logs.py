"""A command whose log is JSON: every line of standard error is a record. That of a whole run is in test_watched."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.command import SERVER, TINY, charflow, environment

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_server")]

SECRET = "hush-7141-keep-it"


def records(err: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in err.splitlines()]
    assert all({"time", "level", "logger", "message", "host", "pid"} <= record.keys() for record in found)
    assert "stderr" not in {record["logger"] for record in found}, "words that were not for the log"
    assert not any(name.startswith("_") for record in found for name in record)
    return found


def test_a_failing_run_tells_the_step_and_the_error_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("AWS_SECRET_ACCESS_KEY", SECRET), ("CHARFLOW_TRACEBACK", "1")):
        monkeypatch.setenv(name, value)
    changes = (*TINY, "dataset.mean=1e6", "dataset.standardise=false", "trajectories.precision=float16")
    words = ("run", "gaussian", "--until", "integrate", "--log", "json")
    out, err = charflow(*words, root=tmp_path / "runs", changes=(*changes, "compute.cpus=1"), code=1)
    assert out == ""
    *_, failed, last, where = records(err)
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in err
    assert (failed["event"], failed["step"], failed["run"], failed["level"]) == (
        "failed",
        "integrate",
        "gaussian",
        "error",
    )
    assert failed["error"]["type"] == "FloatingPointError"
    assert failed["error"]["message"].startswith("trajectory ")
    assert (last["message"], last["run"]) == (failed["error"]["message"], "gaussian")
    assert last["error"] == failed["error"]
    assert "in simulate_chunk" in where["error"]["traceback"]


FAIL_ONCE = """
from flows import cli, work

ingest, failures = work.WORK["ingest"], [ConnectionError("no answer")]

def fail_once(*request):
    if failures:
        raise failures.pop()
    return ingest(*request)

work.WORK["ingest"] = fail_once
cli.main(["run", "gaussian", "--until", "ingest", "--root", "runs"])
"""


def tags_of_the_last_flow_run() -> list[str]:
    asked = json.dumps({"sort": "START_TIME_DESC", "limit": 1}).encode()
    address = f"{SERVER['PREFECT_API_URL']}/flow_runs/filter"
    with urllib.request.urlopen(urllib.request.Request(address, asked, {"Content-Type": "application/json"})) as answer:
        (found,) = json.load(answer)
    return list(found["tags"])


def test_a_step_that_is_tried_again_says_so(tmp_path: Path) -> None:
    kept = environment(tmp_path / "runs") | {"CHARFLOW_LOG": "json"}
    command = [sys.executable, "-c", FAIL_ONCE]
    done = subprocess.run(command, env=kept, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    found = [record for record in records(done.stderr) if record.get("step") == "ingest" and "event" in record]
    assert [record["event"] for record in found] == ["began", "failed", "again", "began", "ended"], done.stderr
    assert found[1]["error"] == {"type": "ConnectionError", "message": "no answer"}
    assert found[2]["attempt"] == 2
    assert {record["run"] for record in found} == {"gaussian"}
    assert "ingest" in done.stdout
    assert tags_of_the_last_flow_run() == ["charflow"]  # by which the server's automation knows it
