"""A training of one or two workers on a cluster that loses a node and gets another: 2, 1 and 2 workers, one order.

Each worker writes down what it was given; put together, that is every global batch of the order, whoever trained it.
"""

import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from storage.models import read_model
from storage.stream import PairStream
from storage.trajectories import TrajectoryStore
from tasks.specs import GeneratorSpec, NetworkSpec
from tasks.train_generator import GeneratorRequest, stream_spec
from tests.end_to_end.command import ROOT
from tests.end_to_end.elastic import digest
from tests.end_to_end.nodes import cluster_of
from tests.end_to_end.test_interruption import wait_until
from tests.local import on_disk
from tests.tasks.test_train_generator import generator_request

pytestmark = pytest.mark.slow

STEPS, BATCH = 400, 48


def test_two_one_and_two_workers_see_the_same_global_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "8")
    asked = generator_request(tmp_path)
    network = NetworkSpec(width=16, depth=2)
    spec = GeneratorSpec(network=network, steps=STEPS, batch_size=BATCH, workers=(1, 2), warmup=5)
    request = replace(asked, generator=spec)
    log = tmp_path / "given.log"

    def worlds() -> list[int]:
        """Give the sizes of the groups, one after another."""
        sizes = [int(line.split()[0]) for line in (log.read_text().splitlines() if log.exists() else [])]
        return [size for k, size in enumerate(sizes) if k == 0 or sizes[k - 1] != size]

    checkpoint = on_disk(request.place.checkpoints) / "step-00000040.json"
    (tmp_path / "request").write_bytes(pickle.dumps(request))
    with cluster_of(2, monkeypatch) as nodes:
        words = ["-m", "tests.end_to_end.elastic", nodes.address, str(tmp_path / "request")]
        driver = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        try:
            assert wait_until(checkpoint.exists, seconds=150)  # 35 on two idle cores
            nodes.dismiss(1)
            assert wait_until(lambda: worlds() == [2, 1], seconds=90)
            nodes.replace(1)
            assert wait_until(lambda: worlds() == [2, 1, 2], seconds=90)
            (tmp_path / "hurry").touch()
            _, err = driver.communicate(timeout=60)
        finally:
            driver.kill()
            driver.communicate()
        assert driver.returncode == 0, err
    assert worlds() == [2, 1, 2]
    given = {tuple(line.split()) for line in log.read_text().splitlines()}
    planned = {world: [planned_digests(request, world, rank) for rank in range(world)] for world in (1, 2)}
    seen = Counter[int]()
    for world, rank, found in given:
        seen[planned[int(world)][int(rank)].index(found)] += 1  # a batch of the order, as this rank's part of it
    assert set(seen) >= set(range(STEPS))
    assert read_model(request.place.folder).spec["key"] == request.place.key


def planned_digests(request: GeneratorRequest, world: int, rank: int) -> list[str]:
    """Give what a rank is to be given, step by step."""
    store = TrajectoryStore.open(request.store)
    stream = iter(PairStream(store, stream_spec(request), rank=rank, world=world))
    return [digest(next(stream)) for _ in range(STEPS + 4)]
