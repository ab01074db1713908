"""The Prefect API of a command: found, started, shared and stopped."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Reports the URL, runs a flow of two tasks or one task alone, then waits to be told to end.
DRIVER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from flows.server import prefect_api

    with prefect_api(Path(sys.argv[1])) as wait:
        from prefect import flow, task
        from prefect.settings import PREFECT_API_URL

        wait()
        url = PREFECT_API_URL.value()

        @task
        def step(): ...

        @flow
        def pair():
            step(), step()

        print(url, flush=True)
        if work := {"run": pair, "step": step}.get(sys.stdin.readline().strip()):
            work()
            print("ran", flush=True)
            sys.stdin.readline()
    """
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tests: the database in it takes ten seconds to make."""
    return tmp_path_factory.mktemp("prefect")


def start_driver(home: Path, **environment: str) -> "subprocess.Popen[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", DRIVER, str(home)],
        cwd=ROOT,
        env=kept | {"HOME": str(home.parent)} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_line(driver: "subprocess.Popen[str]") -> str:
    assert driver.stdout is not None
    return driver.stdout.readline().strip()


def tell(driver: "subprocess.Popen[str]", line: str) -> None:
    assert driver.stdin is not None
    driver.stdin.write(f"{line}\n")
    driver.stdin.flush()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def wait_until_silent(url: str, *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while answers(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not answers(url)


def completed(home: Path) -> Counter[str]:
    """Count the completed runs that the private server's database knows, by the name of the flow or task."""
    (database,) = home.glob("prefect-*.db")
    with closing(sqlite3.connect(database)) as connection:
        flows = connection.execute(
            "SELECT flow.name FROM flow_run JOIN flow ON flow.id = flow_id WHERE state_type = 'COMPLETED'"
        ).fetchall()
        tasks = connection.execute(
            "SELECT substr(task_key, 1, 4) FROM task_run WHERE state_type = 'COMPLETED'"
        ).fetchall()
    return Counter(name for (name,) in flows + tasks)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.slow
def test_a_new_folder_is_shared_by_two_commands_after_a_start_that_was_killed_half_way(home: Path) -> None:
    # First in the file: both commands want to create the database, in a folder that holds half of one.
    killed = start_driver(home)
    while not list(home.glob("*.partial")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.communicate(timeout=10)
    drivers = [start_driver(home), start_driver(home)]
    urls = [read_line(driver) for driver in drivers]
    assert len(set(urls)) == 2
    assert all(url.startswith("http://127.0.0.1:") and answers(url) for url in urls)
    for driver in drivers:
        tell(driver, "run")
    assert [read_line(driver) for driver in drivers] == ["ran", "ran"]
    results = [driver.communicate("end\n", timeout=30) for driver in drivers]
    assert results == [("", ""), ("", "")]
    assert [driver.returncode for driver in drivers] == [0, 0]
    assert not any(map(answers, urls))
    assert (home / "server.log").read_text() == ""
    assert completed(home) == {"pair": 2, "step": 4}


@pytest.mark.slow
def test_a_server_that_is_told_to_end_waits_for_the_database_and_records_all_events(home: Path) -> None:
    driver = start_driver(home)
    read_line(driver)
    before = completed(home)
    (database,) = home.glob("prefect-*.db")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")  # as another command's server, which writes
        tell(driver, "step")  # without a flow, so nothing but events
        assert read_line(driver) == "ran"
        with pytest.raises(subprocess.TimeoutExpired):
            driver.communicate("end\n", timeout=1.5)
        connection.rollback()
    assert driver.communicate(timeout=30) == ("", "")
    assert completed(home) == before + Counter(step=1)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_private_server_is_gone_within_five_seconds_of_a_killed_driver(home: Path, kill: signal.Signals) -> None:
    driver = start_driver(home)
    url = read_line(driver)
    driver.send_signal(kill)
    assert wait_until_silent(url, seconds=5.0)
    driver.communicate(timeout=10)
    assert driver.returncode == -kill


@pytest.fixture(scope="module")
def other(home: Path) -> Iterator[str]:
    """Give the URL of another command's server."""
    driver = start_driver(home)
    yield read_line(driver)
    driver.communicate("end\n", timeout=30)


@pytest.mark.slow
def test_the_server_that_the_user_named_is_used(other: str, tmp_path: Path) -> None:
    guest = start_driver(tmp_path / "unused", PREFECT_API_URL=other)
    assert read_line(guest) == other
    assert guest.communicate("end\n", timeout=30) == ("", "")
    assert answers(other)
    assert not (tmp_path / "unused").exists()


@pytest.mark.slow
def test_the_server_of_the_users_profile_is_used(other: str, tmp_path: Path) -> None:
    profile = f'active = "mine"\n\n[profiles.mine]\nPREFECT_API_URL = "{other}"\n'
    (tmp_path / "profiles.toml").write_text(profile)
    guest = start_driver(tmp_path / "unused", PREFECT_PROFILES_PATH=str(tmp_path / "profiles.toml"))
    assert read_line(guest) == other
    assert guest.communicate("end\n", timeout=30) == ("", "")
    assert answers(other)


@pytest.mark.slow
def test_a_named_server_that_does_not_answer_is_one_clear_line(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}/api"
    driver = start_driver(tmp_path / "unused", PREFECT_API_URL=url)
    _, err = driver.communicate(timeout=30)
    message = err.splitlines()[-1]
    assert message.startswith("ConnectionError: PREFECT_API_URL must name a server that answers, got")
    assert url in message
    assert not (tmp_path / "unused").exists()
