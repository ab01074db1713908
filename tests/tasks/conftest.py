"""The Ray that the tests of this folder share: its start and end take as long as several of them."""

import signal
from collections.abc import Iterator

import pytest

from tasks.executor import RayExecutor, ray_session
from tasks.specs import ComputeSpec


def our_handler(*_: object) -> None:
    """Stand for a handler that someone set before."""


@pytest.fixture(scope="package")
def cluster() -> Iterator[RayExecutor]:
    """Give an executor on two CPUs and a GPU, which Ray counts and does not look for."""
    before = signal.signal(signal.SIGTERM, our_handler)
    try:
        with ray_session(ComputeSpec(cpus=2, gpus=1)) as executor:
            yield executor
        assert signal.getsignal(signal.SIGTERM) is our_handler
    finally:
        signal.signal(signal.SIGTERM, before)
