"""The last lines of a worker's log: read from files, and from workers of a real Ray that raise or die."""

import io
import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

from tasks.executor import RayExecutor
from tasks.worker_logs import LINES, News, WorkerLog, dead_workers, last_lines, note_of


def log_in(folder: Path, **texts: str) -> WorkerLog:
    for suffix, text in texts.items():
        (folder / f"worker-1.{suffix}").write_text(text)
    files = tuple(str(folder / f"worker-1.{suffix}") for suffix in ("err", "out"))
    return WorkerLog(pid=1, host="node", files=files)


def test_the_last_lines_are_given_without_marks_and_blanks(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b":job_id:01\n" + b"".join(b"%d\n\n" % k for k in range(200)) + b":task_name:f\nlast \xff")
    assert last_lines(path) == [*map(str, range(200 - LINES + 1, 200)), "last \ufffd"]
    path.write_text("x" * 10**6 + "\nend\n")
    assert last_lines(path)[-1] == "end"
    assert len(last_lines(path)[0]) < 10**5
    assert last_lines(tmp_path / "none") == []


def test_a_note_tells_who_wrote_what_and_where(tmp_path: Path) -> None:
    log = log_in(tmp_path, err="no room\n", out="")
    told = f"last lines of worker 1 on node, {tmp_path}/worker-1.err:\n    no room"
    assert note_of(log) == told
    assert note_of(log_in(tmp_path, err="")) == ""


DEATH = (
    "(raylet) A worker died or was killed while executing a task by an unexpected system error. To troubleshoot the "
    "problem, check the logs for the dead worker. Lease ID: 00 Worker ID: 2242421f Node ID: d9c215c0 Worker IP "
    "address: 10.0.0.7 Worker port: 39899 Worker PID: 27780 Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file."
)


def test_of_a_worker_that_died_on_another_host_rays_news_tell_where_its_lines_are(tmp_path: Path) -> None:
    out, heard = io.StringIO(), deque[WorkerLog](maxlen=2)
    news = News(out, heard)
    for text in ("nothing of it", DEATH.replace("27780", "1"), DEATH.replace("27780", "2"), DEATH):
        print(text, file=news)
    assert out.getvalue().count("Worker PID") == 3
    assert [log.pid for log in heard] == [2, 27780]
    first, end = note_of(heard[-1], is_here=False, folder=tmp_path).splitlines()
    places = " ".join(f"{tmp_path}/worker-2242421f-*.{suffix}" for suffix in ("err", "out"))
    assert first == f"worker 27780 on 10.0.0.7 left its last lines there, in {places}"
    assert end == "    Worker unexpectedly exits with a connection error code 2. End of file."


def test_of_workers_that_are_no_more_those_that_wrote_lately_are_told(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    for k, (name, text) in enumerate(
        [("a", "old"), ("b", ":job_id:1"), ("c", "first"), ("d", "second"), ("e", "third"), ("f", "fourth")]
    ):
        for suffix in ("err", "out"):
            path = tmp_path / f"worker-{name}-01-{int(gone.stdout)}.{suffix}"
            path.write_text(text if suffix == "err" else "")
            os.utime(path, (k, k))
    (tmp_path / f"worker-g-01-{os.getpid()}.err").write_text("alive")
    (tmp_path / "raylet.err").write_text("none of ours")
    found = dead_workers(tmp_path, host="node", since=1.0)
    assert [last_lines(Path(log.files[0])) for log in found] == [["fourth"], ["third"], ["second"]]
    assert {(log.pid, log.host) for log in found} == {(int(gone.stdout), "node")}


def fail(how: str) -> None:
    sys.stderr.write(f"about to fail {how}\n")
    match how:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError(how)


def note_by(cluster: RayExecutor, how: str) -> str:
    with pytest.raises(Exception, match=r"raise|worker died") as caught:
        list(cluster.map(fail, [how]))
    return "\n".join(caught.value.__notes__)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raise", "exit", "kill"])
def test_an_error_takes_along_what_its_worker_wrote(how: str, cluster: RayExecutor) -> None:
    told = note_by(cluster, how)
    assert f"    about to fail {how}" in told
    assert "last lines of worker " in told
    assert "/logs/worker-" in told
    assert told.index("last lines") < told.index(f"about to fail {how}")
