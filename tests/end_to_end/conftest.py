"""The home of Prefect that the commands of these tests share."""

import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.end_to_end.command import ROOT, environment

MAKE = "import sys; from pathlib import Path; from flows import server; server._ensure_database(Path(sys.argv[1]))"


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> None:
    """Lay a database into the home: it takes 15 s to make, and is kept between sessions; test_server makes one anew."""
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
