"""An exported generator needs no charflow, and is the generator."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from storage.errors import InputError
from storage.models import publish_model
from tasks.export import check_export_path, export_generator
from tasks.ingest import ingest
from tasks.networks.build import build_generator
from tasks.sample import sample
from tasks.specs import DatasetSpec, NetworkSpec
from tasks.train_generator import load_generator
from tasks.training.checkpoint import weights_to_bytes
from tasks.transport.noise import SAMPLES, standard_normal

# what a user without charflow would write
READER = """
import json, sys, numpy, torch
folder, noise, out = sys.argv[1:]
spec = json.load(open(folder + "/spec.json"))
program = torch.export.load(folder + "/generator.pt2").module()
x = torch.from_numpy(numpy.load(noise))
t, s = (torch.full((len(x),), spec["sample"][name]) for name in ("t", "s"))
label = [torch.arange(len(x)) % 3 - 1] if spec["classes"] else []
mean, scale = (torch.tensor(spec[name]) for name in ("mean", "scale"))
numpy.save(out, (mean + scale * program(t, s, x, *label)).detach().numpy())
assert not [name for name in sys.modules if name.split(".")[0] in ("flows", "tasks", "storage")]
"""


def published(folder: Path, *, classes: int = 0) -> tuple[Path, Path]:
    """Publish a generator of points in the plane that was never trained, and its data."""
    ingest(DatasetSpec(kind="moons", count=50), seed=0, path=folder / "data.zarr")
    network: dict[str, Any] = {"kind": "mlp", "width": 16, "depth": 2}
    generator = build_generator(
        NetworkSpec(**network), (2,), seed=0, interpolant="linear", data_std=1.0, classes=classes
    )
    backbone: Any = generator.backbone
    nn.init.normal_(backbone.output.weight, generator=torch.Generator().manual_seed(0))
    spec = {
        "kind": "generator",
        "network": network,
        "dim": [2],
        "interpolant": "linear",
        "data_std": 1.0,
        "times": [0.0, 0.5, 0.9],
        "classes": classes,
        "class_shares": [1 / classes] * classes if classes else [],
        "unlabelled_share": 0.1 if classes else 0.0,
        "key": "k",
    }
    publish_model(folder / "generator", spec=spec, weights=weights_to_bytes(generator.state_dict()))
    return folder / "generator", folder / "data.zarr"


def test_who_has_no_charflow_draws_the_same_samples(tmp_path: Path) -> None:
    generator, data = published(tmp_path)
    summary = export_generator(generator, data, out=tmp_path / "out")
    assert summary.difference < 1e-5
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(summary.files)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (generator / "model.safetensors").read_bytes()
    np.save(tmp_path / "noise.npy", standard_normal(4, 0, 7, (2,), stream=SAMPLES).float().numpy())
    command = [sys.executable, "-c", READER, *map(str, (tmp_path / "out", tmp_path / "noise.npy", tmp_path / "x.npy"))]
    subprocess.run(command, check=True, cwd=tmp_path)
    expected = sample(generator, data, count=7, steps=1, seed=4)
    assert np.load(tmp_path / "x.npy") == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_conditional_program_takes_labels_and_none(tmp_path: Path) -> None:
    generator, data = published(tmp_path, classes=2)
    export_generator(generator, data, out=tmp_path / "out")
    program = torch.export.load(tmp_path / "out" / "generator.pt2").module()
    stored = load_generator(generator).generator
    t, x, label = torch.zeros(3), torch.ones(3, 2), torch.tensor([-1, 0, 1])
    found = program(t, t + 0.9, x, label)
    torch.testing.assert_close(found, stored(t, t + 0.9, x, label))
    assert len({tuple(row) for row in found.tolist()}) == 3


def test_an_export_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    generator, data = published(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "spec.json").write_text("{}")
    (tmp_path / "file").touch()
    (tmp_path / "more").mkdir()
    for name in ("generator.pt2", "notes.txt"):
        (tmp_path / "more" / name).touch()
    for name in ("mine", "file", "more"):
        with pytest.raises(InputError, match="is there and holds no export"):
            export_generator(generator, data, out=tmp_path / name)
    with pytest.raises(InputError, match=r"lies in no folder; make .*nowhere first"):
        check_export_path(tmp_path / "nowhere" / "out")
    (tmp_path / "out").mkdir()
    for _ in range(2):
        export_generator(generator, data, out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "spec.json").read_text())["sample"] == {"t": 0.0, "s": 0.9}
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["spec.json"]


def test_a_program_that_is_not_the_generator_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, data = published(tmp_path)
    save = torch.export.save

    def spoil(program: Any, path: Path, name: str = "backbone.output.bias") -> None:
        program.state_dict[name] = nn.Parameter(program.state_dict[name] + 0.01)
        save(program, path)

    monkeypatch.setattr(torch.export, "save", spoil)
    with pytest.raises(ArithmeticError, match="differs from the generator by"):
        export_generator(generator, data, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
