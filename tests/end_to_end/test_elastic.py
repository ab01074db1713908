"""A training of one or two workers on a cluster that loses a node and gets another: 2, 1 and 2 workers, one order.

Each worker writes down what it was given; put together, that is every global batch of the order, whoever trained it.
"""

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import pytest
import torch

from storage.models import read_model
from storage.stream import PairBatch, PairStream, StreamSpec
from storage.trajectories import TrajectoryStore
from tasks import train_generator
from tasks.executor import ray_session
from tasks.specs import ComputeSpec, GeneratorSpec, NetworkSpec
from tasks.train_generator import GeneratorRequest, train_characteristics
from tasks.training import ddp
from tasks.training.fitting import TorchPairs
from tasks.training.group import Group
from tests.end_to_end.nodes import cluster_of
from tests.end_to_end.test_interruption import wait_until
from tests.local import on_disk
from tests.tasks.test_train_generator import generator_request

pytestmark = pytest.mark.slow

STEPS, BATCH = 400, 48
SLOW_SECONDS = 0.1  # a step, until nodes need no longer change


def train_on_record(request: GeneratorRequest, group: Group) -> None:
    """Train, slowly, and write down what this worker was given."""
    log, hurry = (on_disk(request.place.folder).with_name(name) for name in ("given.log", "hurry"))
    convert = train_generator.as_tensors

    def write_down(batch: PairBatch) -> TorchPairs:
        with log.open("a") as file:
            file.write(f"{group.world} {group.rank} {digest(batch)}\n")
        return convert(batch)

    def average(parameters: Sequence[torch.Tensor]) -> None:
        if not hurry.exists():
            time.sleep(SLOW_SECONDS)
        group.average(parameters)

    train_generator.as_tensors = write_down
    train_characteristics(request, replace(group, average=average))


def digest(batch: PairBatch) -> str:
    return blake2b(b"".join(x.tobytes() for x in (batch.x_t, batch.x_s, batch.t, batch.s)), digest_size=8).hexdigest()


def test_two_one_and_two_workers_see_the_same_global_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ddp, "RESIZE_SECONDS", 1.0)
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

    train = partial(
        ddp.run_distributed,
        train_on_record,
        request,
        workers=(1, 2),
        parts=BATCH,
        place=request.place,
        steps=STEPS,
        progress=lambda *_: None,
    )
    checkpoint = on_disk(request.place.checkpoints) / "step-00000040.json"
    with (
        cluster_of(2, monkeypatch) as nodes,
        ray_session(ComputeSpec(address=nodes.address)),
        ThreadPoolExecutor() as pool,
    ):
        training = pool.submit(train)
        try:
            assert wait_until(checkpoint.exists, seconds=90)
            nodes.dismiss(1)
            assert wait_until(lambda: worlds() == [2, 1], seconds=90)
            nodes.replace(1)
            assert wait_until(lambda: worlds() == [2, 1, 2], seconds=90)
        finally:
            (tmp_path / "hurry").touch()
        assert training.result() > 0
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
    spec = StreamSpec(
        rows=request.count,
        batch_size=BATCH,
        seed=request.seed,
        visits=request.generator.pairs_per_row,
        full_span_share=request.generator.full_span_share,
    )
    store = TrajectoryStore.open(request.store)
    stream = iter(PairStream(store, spec, rank=rank, world=world))
    return [digest(next(stream)) for _ in range(STEPS + 4)]
