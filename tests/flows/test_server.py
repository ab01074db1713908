"""The Prefect API of a command: found, started, shared and stopped."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Reports the URL, runs a flow of two tasks, reports what the server knows of it, then waits to be told to end.
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
        if sys.stdin.readline() == "run\\n":
            pair()
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


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.slow
def test_a_flow_runs_on_a_private_server_that_ends_with_the_command_and_says_nothing(home: Path) -> None:
    driver = start_driver(home)
    url = read_line(driver)
    assert url.startswith("http://127.0.0.1:")
    assert answers(url)
    tell(driver, "run")
    assert read_line(driver) == "ran"
    out, err = driver.communicate("end\n", timeout=30)
    assert (driver.returncode, out, err) == (0, "", "")
    assert not answers(url)
    assert (home / "server.log").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_private_server_is_gone_within_five_seconds_of_a_killed_driver(home: Path, kill: signal.Signals) -> None:
    driver = start_driver(home)
    url = read_line(driver)
    driver.send_signal(kill)
    assert wait_until_silent(url, seconds=5.0)
    driver.communicate(timeout=10)
    assert driver.returncode == -kill


@pytest.mark.slow
def test_two_commands_at_once_share_a_new_folder(tmp_path: Path) -> None:
    # A new folder is the harder case: both want to create the database.
    drivers = [start_driver(tmp_path), start_driver(tmp_path)]
    urls = [read_line(driver) for driver in drivers]
    assert len(set(urls)) == 2
    for driver in drivers:
        tell(driver, "run")
    assert [read_line(driver) for driver in drivers] == ["ran", "ran"]
    results = [driver.communicate("end\n", timeout=30) for driver in drivers]
    assert results == [("", ""), ("", "")]
    assert (tmp_path / "server.log").read_text() == ""


@pytest.mark.slow
def test_a_start_that_is_killed_half_way_leaves_nothing_in_the_way_of_the_next(tmp_path: Path) -> None:
    first = start_driver(tmp_path)
    while not list(tmp_path.glob("*.partial")):
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.communicate(timeout=10)
    second = start_driver(tmp_path)
    read_line(second)
    tell(second, "run")
    assert read_line(second) == "ran"
    assert second.communicate("end\n", timeout=30) == ("", "")


@pytest.mark.slow
def test_the_server_that_the_user_named_is_used(home: Path, tmp_path: Path) -> None:
    owner = start_driver(home)
    url = read_line(owner)
    guest = start_driver(tmp_path / "unused", PREFECT_API_URL=url)
    assert read_line(guest) == url
    assert guest.communicate("end\n", timeout=30) == ("", "")
    assert answers(url)
    assert not (tmp_path / "unused").exists()
    owner.communicate("end\n", timeout=30)


@pytest.mark.slow
def test_the_server_of_the_users_profile_is_used(home: Path, tmp_path: Path) -> None:
    owner = start_driver(home)
    url = read_line(owner)
    profile = f'active = "mine"\n\n[profiles.mine]\nPREFECT_API_URL = "{url}"\n'
    (tmp_path / "profiles.toml").write_text(profile)
    guest = start_driver(tmp_path / "unused", PREFECT_PROFILES_PATH=str(tmp_path / "profiles.toml"))
    assert read_line(guest) == url
    assert guest.communicate("end\n", timeout=30) == ("", "")
    assert answers(url)
    owner.communicate("end\n", timeout=30)


@pytest.mark.slow
def test_a_named_server_that_does_not_answer_is_one_clear_line(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}/api"
    driver = start_driver(tmp_path / "unused", PREFECT_API_URL=url)
    _, err = driver.communicate(timeout=30)
    message = err.splitlines()[-1]
    assert message.startswith("ConnectionError: PREFECT_API_URL must name a server that answers, got")
    assert url in message
    assert not (tmp_path / "unused").exists()
