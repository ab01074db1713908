"""A driver that trains a generator of one or two workers on a running cluster, each batch of each worker on record.

    python -m tests.end_to_end.elastic ADDRESS REQUEST

REQUEST is a pickled ``GeneratorRequest``. Steps are slow until there is a file ``hurry`` beside the generator's folder;
``given.log`` beside it gets a line a worker and step: number of workers, rank, digest of what it was given.
"""

import pickle
import sys
import time
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import torch

from storage.stream import PairBatch
from tasks import train_generator
from tasks.executor import ray_session
from tasks.specs import ComputeSpec
from tasks.train_generator import GeneratorRequest, train_characteristics
from tasks.training import ddp
from tasks.training.fitting import TorchPairs
from tasks.training.group import Group
from tests.local import on_disk

SLOW_SECONDS = 0.1  # a step, until nodes need no longer change


def train_on_record(request: GeneratorRequest, group: Group) -> None:
    """Train, slowly, and write down what this worker was given."""
    log, hurry = (on_disk(request.place.folder).with_name(name) for name in ("given.log", "hurry"))
    convert = train_generator.as_tensors

    def write_down(batch: PairBatch) -> TorchPairs:
        with log.open("a") as file:
            file.write(f"{group.world} {group.rank} {digest(batch)}\n")
        return convert(batch)

    def average(gradient: torch.Tensor) -> None:
        if not hurry.exists():
            time.sleep(SLOW_SECONDS)
        group.average(gradient)

    train_generator.as_tensors = write_down
    train_characteristics(request, replace(group, average=average))


def digest(batch: PairBatch) -> str:
    return blake2b(b"".join(x.tobytes() for x in (batch.x_t, batch.x_s, batch.t, batch.s)), digest_size=8).hexdigest()


def main(address: str, request: str) -> None:
    from tests.end_to_end import elastic  # this module under its name, by which workers import it

    asked: GeneratorRequest = pickle.loads(Path(request).read_bytes())
    ddp.RESIZE_SECONDS = 1.0
    with ray_session(ComputeSpec(address=address)):
        ddp.run_distributed(
            elastic.train_on_record,
            asked,
            workers=asked.generator.workers,
            parts=asked.generator.batch_size,
            place=asked.place,
            steps=asked.generator.steps,
            progress=lambda *_: None,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
