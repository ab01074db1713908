"""The home of Prefect that the commands of these tests share, and a server there."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from flows.server import _await_private_server, _private_server
from tests.end_to_end import command
from tests.end_to_end.command import ROOT, environment

MAKE = "import sys; from pathlib import Path; from flows import server; server._ensure_database(Path(sys.argv[1]))"


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """Give the home, and lay a database into it, kept between sessions: it takes 15 s to make, as test_server does."""
    assert pytestconfig.cache is not None
    name = f"prefect-{version('prefect')}.db"
    kept = pytestconfig.cache.mkdir("prefect") / name
    home = tmp_path_factory.getbasetemp() / "state" / "charflow" / "prefect"
    home.mkdir(parents=True, exist_ok=True)  # a command that does not ask for this may have run before
    if not kept.exists():
        kept_environment = environment(home) | {"PREFECT_HOME": str(home), "DO_NOT_TRACK": "1"}
        subprocess.run([sys.executable, "-c", MAKE, str(kept)], cwd=ROOT, env=kept_environment, check=True)
    if not (home / name).exists():
        shutil.copy(kept, home / name)
    return home


@pytest.fixture(scope="session")
def _server(prefect_home: Path) -> Iterator[dict[str, str]]:
    """Start a server there, and give what leads commands to it."""
    with _private_server(prefect_home) as port:
        _await_private_server(port, log=prefect_home / "server.log")
        yield {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_LOGGING_TO_API_ENABLED": "false"}


@pytest.fixture
def one_server(_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands report to one server: one of its own costs each 3 s of a processor, of which it lives 20."""
    for name, value in _server.items():
        monkeypatch.setitem(command.SERVER, name, value)
