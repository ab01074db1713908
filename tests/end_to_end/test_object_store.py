"""The whole road on an object store, as a user travels it; every fortieth request fails once."""

import json
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.cli import main
from flows.runs import reopen
from flows.work import integrate_request
from storage import remote
from storage.catalog import Catalog
from storage.remote import RemotePath, remote_path
from tasks.executor import SerialExecutor
from tasks.integrate import check_store, repair_store
from tests.end_to_end.command import TINY, integrate_here, told
from tests.end_to_end.command import environment as own_environment
from tests.storage.bucket import FAILED, SECRETS, SOUND, Proxy, contents, environment, serving, spoil
from tests.storage.stores import snapshot

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_home")]

ADDRESS = "s3://bucket/my/runs"
ROOT = remote_path(ADDRESS)
OVERLAP = ("generator.overlap=true", "generator.workers=1", "compute.cpus=2")
SETS = [part for change in (*TINY, *OVERLAP) for part in ("--set", change)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, Path, str]]:
    """Give the way to a bucket that holds one finished run, the folder of all else it wrote, and all it printed."""
    folder = tmp_path_factory.mktemp("bucket")
    turns = count(1)
    with serving() as proxy:
        proxy.script = lambda request: FAILED if next(turns) % 40 == 0 else SOUND
        command = [sys.executable, "-m", "flows.cli", "run", "gaussian", "--json", "--root", ADDRESS, *SETS]
        done = subprocess.run(
            command,
            env=own_environment(folder / "runs") | environment(proxy) | {"XDG_CACHE_HOME": str(folder / "cache")},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["path"] == f"{ADDRESS}/gaussian"
        proxy.script = lambda request: SOUND
        yield proxy, folder, done.stdout + done.stderr


@pytest.fixture
def run(world: tuple[Proxy, Path, str], monkeypatch: pytest.MonkeyPatch, own_signals: None) -> RemotePath:
    """Give the finished run, which this process can reach."""
    proxy, folder, _ = world
    for name, value in (environment(proxy) | {"XDG_CACHE_HOME": str(folder / "cache")}).items():
        monkeypatch.setenv(name, value)
    remote._opened.cache_clear()
    return ROOT / "gaussian"


def test_trajectories_have_the_bytes_that_they_have_on_a_disk(run: RemotePath, tmp_path: Path) -> None:
    integrate_here(tmp_path / "runs", changes=TINY)
    here = snapshot(tmp_path / "runs" / "gaussian" / "trajectories.zarr")
    assert contents(run / "trajectories.zarr") == {name: content for name, (_, content) in here.items()}


def test_every_artefact_is_there_and_nothing_else(run: RemotePath) -> None:
    names = set(contents(run))
    assert {"run.json", "config.toml", "data.zarr/zarr.json", "velocity/spec.json"} <= names
    assert {"trajectories.ledger/manifest.json", "generator/spec.json", "report/index.html"} <= names
    assert any(fnmatchcase(name, "generator/checkpoints/*/admissions/epoch-000000.json") for name in names)
    assert not [name for name in names if name.endswith("growing.json")]
    assert not [name for name in names if name.endswith(".partial") or name == ".lock"]
    (record,) = Catalog(ROOT).runs()
    assert (record.name, record.status, len(record.steps)) == ("gaussian", "finished", 5)


def test_a_finished_run_repeated_does_nothing(run: RemotePath, capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = json.loads(told(capsys, "run", "gaussian", "--json", *SETS, root=ROOT))
    assert {facts["status"] for facts in found["steps"].values()} == {"reused"}


def test_commands_read_it_from_there(run: RemotePath, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "report", "gaussian", root=ROOT).strip() == f"{ROOT}/gaussian/report/index.html"
    assert "gaussian" in told(capsys, "runs", root=ROOT)
    assert json.loads(told(capsys, "show", "gaussian", "--json", root=ROOT))["path"] == str(run)
    told(capsys, "sample", "gaussian", "--count", "50", "--out", str(tmp_path / "x.npy"), root=ROOT)
    assert np.isfinite(np.load(tmp_path / "x.npy")).all()
    assert "all as committed" in told(capsys, "verify", "gaussian", root=ROOT)
    chunk = run / "trajectories.zarr/x/c/2/0/0"
    good = spoil(chunk)
    assert "bad 2" in told(capsys, "verify", "gaussian", root=ROOT, code=1)
    chunk.write(good)


def test_no_credential_is_in_anything_that_was_written_or_printed(
    world: tuple[Proxy, Path, str], run: RemotePath
) -> None:
    _, folder, printed = world
    written = {str(path): path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    assert len(written) > 10
    everything = written | contents(RemotePath(run.bucket)) | {"printed": printed.encode()}
    for name, content in everything.items():
        for secret in (*SECRETS.values(), "X-Amz-Signature"):
            assert secret.encode() not in content, name


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("s3://", "must be s3://BUCKET/PREFIX"),
        ("ftp://x", "must be a folder, or an address that begins with s3://, gs:// or az://"),
        ("s3://nobody/runs", "make the bucket s3://nobody first"),
    ],
)
def test_a_bad_root_is_one_line_and_exit_2(
    root: str, words: str, run: RemotePath, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["run", "gaussian"], ["runs"], ["sample", "gaussian", "--count", "1", "--out", "x.npy"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--root", root])
        out, err = capsys.readouterr()
        assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
        assert words in err


def test_a_kernel_finds_its_data_and_a_repair_makes_the_same_bytes(run: RemotePath, tmp_path: Path) -> None:
    changes = (*TINY, "velocity.kind=kernel", "velocity.bandwidth=0.3")
    root = remote_path("s3://bucket/kernels")
    integrate_here(root, changes=changes)
    integrate_here(tmp_path, changes=changes)
    good = contents(root / "gaussian/trajectories.zarr")
    assert good == {name: content for name, (_, content) in snapshot(tmp_path / "gaussian/trajectories.zarr").items()}
    (root / "gaussian/trajectories.zarr/x/c/1/0/0").unlink()
    spoil(root / "gaussian/trajectories.zarr/x/c/3/0/0")
    request = integrate_request(reopen(Catalog(root), "gaussian"))
    found = check_store(request)
    assert (found.bad, found.missing) == ((1, 3), ())
    repair_store(request, found, executor=SerialExecutor(), progress=lambda *_: None)
    assert contents(root / "gaussian/trajectories.zarr") == good
