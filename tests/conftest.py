"""What holds for every test: the packages under test are those of this checkout, and nothing depends on the machine."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

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

USE_RAY = {  # a process of pytest for each, and as long; in the order in which they begin
    "a server": (
        "tests/end_to_end/test_blows.py",
        "tests/end_to_end/test_deployments.py",
        "tests/end_to_end/test_road.py",
    ),
    "nodes": (
        "tests/benchmarks/test_orchestration.py",
        "tests/deploy/test_slurm.py",
        "tests/end_to_end/test_elastic.py",
        "tests/end_to_end/test_job.py",
        "tests/end_to_end/test_nodes.py",
        "tests/end_to_end/test_object_store.py",
        "tests/end_to_end/test_study.py",
    ),
    "one cluster": (
        "tests/end_to_end/test_interruption.py",
        "tests/end_to_end/test_logs.py",
        "tests/end_to_end/test_watched.py",
        "tests/tasks/test_executor.py",  # from here on that of tests/tasks/conftest.py
        "tests/tasks/test_fit_kernel.py",
        "tests/tasks/test_ray_data.py",
        "tests/tasks/test_session.py",
        "tests/tasks/test_worker_logs.py",
        "tests/tasks/test_worker_metrics.py",
        "tests/tasks/training/test_ddp.py",
    ),
}
_GROUPS = list(USE_RAY)


def group_of(test: str) -> str | None:
    """Give the group of a test's id, if its file starts Ray."""
    return next((name for name, files in USE_RAY.items() if test.startswith(files)), None)


class FewClusters(LoadScopeScheduling):  # type: ignore[misc]
    """Hands whole files to processes, and those that start Ray to one for each group: clusters fight for the cores."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid) or nodeid.split("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    return FewClusters(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups, which take long."""
    items.sort(key=lambda item: _GROUPS.index(group) if (group := group_of(item.nodeid)) else len(_GROUPS))


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Leave the handlers of this process as they were; for tests that call the command line in it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
