"""A training whose files lie on an object store, and which dies before any of its requests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from storage import remote
from storage.journal import read_journal
from storage.models import read_model
from storage.remote import RemotePath
from tasks.facts import TrainingPlace
from tasks.fit_velocity import VelocityRequest, train_velocity
from tasks.ingest import ingest
from tasks.specs import DatasetSpec, InterpolantSpec, NetworkSpec, VelocitySpec
from tasks.training.group import alone
from tests.storage.bucket import deaths

pytestmark = pytest.mark.slow

MOONS = DatasetSpec(kind="moons", count=200)
SMALL = VelocitySpec(network=NetworkSpec(width=8, depth=1), steps=3, batch_size=32, workers=1, warmup=1, ema=0.9)


def test_it_resumes_to_the_same_weights_and_its_journal_has_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    monkeypatch.setattr(remote, "_opened", lambda bucket: store)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = RemotePath("s3://memory", "runs")
    ingest(MOONS, seed=0, path=root / "data.zarr")

    def request(name: str) -> VelocityRequest:
        return VelocityRequest(
            velocity=SMALL,
            interpolant=InterpolantSpec(),
            dataset=MOONS,
            stop=0.9,
            seed=0,
            data=root / "data.zarr",
            place=TrainingPlace(folder=root / name, key="v"),
        )

    def act(k: int) -> Callable[[], object]:
        if k > 1:
            again = request(str(k - 1))
            train_velocity(again, alone())
            assert read_model(again.place.folder).digest == reference
            assert read_journal(again.place.journal)[-1]["step"] == SMALL.steps
        return lambda: train_velocity(request(str(k)), alone())

    train_velocity(request("reference"), alone())
    reference = read_model(root / "reference").digest
    assert deaths(act) > 15
