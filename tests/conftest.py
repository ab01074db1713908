"""What holds for every test: the packages under test are those of this checkout, and nothing depends on the machine."""

from pathlib import Path

import torch
from hypothesis import settings

import flows
import storage
import tasks

ROOT = Path(__file__).resolve().parent.parent

for package in (flows, storage, tasks):
    # an installed copy would make every test pass or fail for other code
    assert Path(str(package.__file__)).resolve().is_relative_to(ROOT), f"{package.__name__} is not of this checkout"

torch.set_num_threads(1)

# no deadline, because a busy machine is no failure; derandomised, because a red build must be red again
settings.register_profile("charflow", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("charflow")
