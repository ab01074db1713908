"""No code is ever loaded from a root, no place leads out of it, and no secret goes into it."""

import ast
import io
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from torch import nn

from flows.cli import main
from flows.config import build_config
from flows.deployments import _Loader
from flows.server import require_answer
from storage.checkpoints import Checkpoint, CheckpointFolder
from storage.data import DataStore
from storage.errors import DamagedError, IncompleteError, InputError
from storage.paths import follow
from storage.samples import sample_file
from storage.studies import StudyRecord, claim_study, find_study
from tasks.ingest import ingest
from tasks.specs import VelocitySpec
from tasks.training.checkpoint import restore, to_checkpoint
from tasks.training.loop import begin
from tests.end_to_end.command import TINY, integrate_here
from tests.test_layering import ROOT, imports, sources

pytestmark = pytest.mark.usefixtures("own_signals")

LOADERS = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "yaml", "runpy", "code"}
# call -> what it must be told so that it reads data alone; None: it may not be called
CALLS: dict[str, tuple[str, bool] | None] = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "np.lib.format.read_array": ("allow_pickle", False),
    "torch.jit.load": None,
    "torch.export.load": None,
    "eval": None,
    "exec": None,
    "compile": None,
    "__import__": None,
    "import_module": None,
}
EXCEPT = {
    ("tasks/training/features.py", "import_module"),  # of a module that the user's configuration names
    ("flows/deployments.py", "yaml"),  # by a safe loader of its own, see below
    ("tasks/export.py", "torch.export.load"),  # of the file that it has just written, to compare
}


def complaints(path: Path, name: str) -> Iterator[str]:
    for line, module in imports(path):
        top = module.partition(".")[0]
        if top in LOADERS and (name, top) not in EXCEPT:
            yield f"{name}:{line} imports {module}"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            called = "import_module" if called.endswith(".import_module") else called
            if called in CALLS and (name, called) not in EXCEPT:
                needed = CALLS[called]
                if needed is None or told.get(needed[0]) != str(needed[1]):
                    yield f"{name}:{node.lineno} calls {called}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_reads_data_alone(path: Path) -> None:
    assert list(complaints(path, path.relative_to(ROOT).as_posix())) == []


def test_what_would_load_code_is_noticed(tmp_path: Path) -> None:
    lines = [
        "import pickle",
        "import numpy as np, torch",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "torch.load(file, weights_only=True)",
        "np.load(file)",
        "np.load(file, allow_pickle=False)",
        "eval(text)",
        "importlib.import_module(name)",
    ]
    (tmp_path / "bad.py").write_text("\n".join(lines))
    found = [int(complaint.split(":")[1].split()[0]) for complaint in complaints(tmp_path / "bad.py", "bad.py")]
    assert found == [1, 3, 4, 6, 8, 9]


def test_deployments_are_read_by_a_loader_that_makes_plain_values_alone(marker: Path) -> None:
    assert issubclass(_Loader, yaml.SafeLoader)
    with pytest.raises(yaml.YAMLError):
        yaml.load(f"!!python/object/apply:pathlib.Path.touch [{marker}]", Loader=_Loader)


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._marker,)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """Give what hostile content would make, and see that nothing did."""
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(Hostile(marker)))
    assert marker.exists(), "it would show"
    marker.unlink()
    yield marker
    assert not marker.exists()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("safety") / "runs"
    integrate_here(root, changes=TINY)
    return root


@pytest.fixture
def root(simulated: Path, tmp_path: Path) -> Path:
    """Give a root of one's own with a run that has its trajectories."""
    return Path(shutil.copytree(simulated, tmp_path / "runs"))


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int) -> str:
    """Run a command that fails, and give its one line."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    found = capsys.readouterr()
    assert (ended.value.code, found.out) == (code, ""), found
    (line,) = found.err.splitlines()
    return line


def test_pickled_bytes_for_a_checkpoint_are_refused_and_not_run(marker: Path, tmp_path: Path) -> None:
    state = begin(nn.Linear(2, 2), VelocitySpec().optimiser(), key="k")
    good = to_checkpoint(state)
    restore(state, good)
    buffer = io.BytesIO()
    np.save(buffer, np.array([Hostile(marker)], dtype=object), allow_pickle=True)
    for payload in (pickle.dumps(Hostile(marker)), buffer.getvalue(), b"", good.payload[:-50]):
        folder = CheckpointFolder(tmp_path / "checkpoints")
        folder.save(Checkpoint(step=7, payload=payload))
        newest = folder.newest()
        assert newest is not None
        with pytest.raises(DamagedError, match="the checkpoint of step 7 is none of tensors and numbers") as caught:
            restore(state, newest)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_archive_of_objects_is_bad_input(order: Any, marker: Path, tmp_path: Path) -> None:
    x = np.array([[Hostile(marker)] * 2] * 8, dtype=object, order=order)
    np.savez(tmp_path / "x.npz", x=x)
    assert "x.npz" in refused_by_ingest("npz", tmp_path / "x.npz")


def refused_by_ingest(kind: str, path: Path) -> str:
    """Ingest in this process, without an engine, and give the line of the bad input."""
    config = build_config({"dataset": {"kind": kind, "path": str(path)}})
    with pytest.raises(InputError) as caught:
        ingest(config.dataset, seed=0, path=path.parent / "data.zarr")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "compressor", "filters"),
    [
        ("<f8", {"id": "pickle"}, None),
        ("<f8", None, [{"id": "pickle"}]),
        ("|O", None, [{"id": "pickle"}]),
        ("|O", None, [{"id": "vlen-utf8"}, {"id": "pickle"}]),
        ("|O", {"id": "pickle"}, [{"id": "vlen-utf8"}]),
    ],
)
def test_a_zarr_array_that_names_pickle_as_its_codec_is_bad_input(
    dtype: str, compressor: object, filters: object, marker: Path, tmp_path: Path
) -> None:
    place = tmp_path / "hostile.zarr"
    write_old_array(place, dtype=dtype, compressor=compressor, filters=filters, marker=marker)
    assert str(place) in refused_by_ingest("zarr", place)


def write_old_array(place: Path, *, dtype: str, compressor: object, filters: object, marker: Path) -> None:
    """Write an array of Zarr's second format, whose one chunk is pickled."""
    place.mkdir(parents=True)
    meta = {"zarr_format": 2, "shape": [4, 2], "chunks": [4, 2], "dtype": dtype, "fill_value": 0, "order": "C"}
    (place / ".zarray").write_text(json.dumps(meta | {"compressor": compressor, "filters": filters}))
    (place / "0.0").write_bytes(pickle.dumps(Hostile(marker)))


def test_a_store_of_an_older_format_is_none_of_ours(root: Path, marker: Path) -> None:
    data = root / "gaussian" / "data.zarr"
    attributes = json.loads((data / "zarr.json").read_text())["attributes"]
    shutil.rmtree(data)
    write_old_array(data / "x", dtype="|O", compressor=None, filters=[{"id": "pickle"}], marker=marker)
    (data / ".zgroup").write_text('{"zarr_format": 2}')
    (data / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(IncompleteError, match=r"data\.zarr is missing; run the ingest step first"):
        DataStore(data)


def test_a_record_that_leads_out_of_the_root_is_damaged(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "gaussian" / "run.json"
    good = json.loads(path.read_text())

    def with_holder(holder: object) -> dict[str, Any]:
        return {**good, "steps": good["steps"] | {"ingest": good["steps"]["ingest"] | {"holder": holder}}}

    hostile = [with_holder(holder) for holder in ("../../etc", "..", "/etc", "a/b", "")]
    hostile += [good | {"name": name} for name in ("..", "../elsewhere", "/tmp", "")]
    before = sorted(root.parent.iterdir())
    for content in hostile:
        path.write_text(json.dumps(content))
        for words in (("show", "gaussian"), ("verify", "gaussian", "--repair"), ("runs",), ("gc", "--delete")):
            line = refused(capsys, *words, "--root", str(root), code=1)
            assert line == f"charflow: {path} names what cannot be a run's folder; restore it, or delete the run"
    path.write_text(json.dumps(with_holder(7)))
    assert "is no run's record" in refused(capsys, "show", "gaussian", "--root", str(root), code=1)
    assert sorted(root.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "/etc", ".hidden", "a\nb", "x" * 101])
def test_no_command_takes_a_name_that_is_no_folders(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--root", str(tmp_path / "runs"))
    for words in (("run", "gaussian", "--name", name), ("study", "gaussian", "--sweep", "seed=1,2", "--name", name)):
        assert "name must be letters, digits" in refused(capsys, *words, *where, code=2)
    for command in ("show", "verify", "report", "evaluate"):
        assert "is unknown under" in refused(capsys, command, name, *where, code=2)
    assert list(tmp_path.rglob("*.json")) == []


@pytest.mark.parametrize("way", ["/etc", "../../../etc", "../../x/../../../etc"])
def test_a_models_way_to_its_data_stays_under_the_root(way: str, tmp_path: Path) -> None:
    start = tmp_path / "runs" / "a" / "velocity"
    with pytest.raises(DamagedError, match="which is not under its root"):
        follow(start, way)
    assert follow(start, "../../b/data.zarr") == tmp_path / "runs" / "b" / "data.zarr"


def test_names_of_classes_are_no_ways_out(tmp_path: Path) -> None:
    names = ("../../out", "..", "/etc", "a/b", "", ".hidden", "plain")
    with sample_file(tmp_path / "images", count=len(names), dim=(1, 2, 2), classes=names) as write:
        write(np.zeros((len(names), 1, 2, 2), np.float32), np.arange(len(names)))
    folders = [path.name for path in (tmp_path / "images").iterdir() if path.is_dir()]
    assert sorted(folders) == ["0", "1", "2", "3", "4", "5", "plain"]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_study_that_leads_out_of_the_root_is_damaged(tmp_path: Path) -> None:
    claim_study(tmp_path, StudyRecord(name="s", identity="i", config="c", created=""))
    path = tmp_path / "s" / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "../t"}))
    with pytest.raises(DamagedError, match="names what cannot be a study's folder"):
        find_study(tmp_path, "s")


SECRET = "hush"


@pytest.mark.parametrize(
    "words",
    [
        ("run", "gaussian", "--root", f"s3://key:{SECRET}@bucket/runs"),
        ("runs", "--root", f"s3://key:{SECRET}@bucket/runs"),
        ("run", "gaussian", "--root", f"s3://bucket/runs?X-Amz-Signature={SECRET}"),
        ("run", "moons", "--set", "dataset.kind=zarr", "--set", f"dataset.path=s3://key:{SECRET}@bucket/x"),
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, *words, code=2)
    assert "credentials belong into the environment" in line
    assert SECRET not in line
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_the_password_of_a_server_that_does_not_answer_is_not_told() -> None:
    for url in (f"http://user:{SECRET}@127.0.0.1:1/api", f"http://user:{SECRET}@host/api"):
        with pytest.raises(ConnectionError) as caught:
            require_answer(url)
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None
