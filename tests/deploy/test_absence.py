"""A Prefect server that is away for as long as an upgrade takes ends no worker, and with it no run."""

import asyncio

import anyio
import httpx
import pytest
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS
from prefect.utilities.services import critical_service_loop

from tests.deploy.files import DEPLOY, document

UPGRADE_SECONDS = 40 * 60
# of Prefect's worker: prefect/workers/base.py runs its two loops so
BACKOFF = 4


def endured(interval: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """Give how many seconds Prefect's worker asks a server that is away before it gives up, and its runs with it."""
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    async def ask() -> None:
        raise httpx.ConnectError("away")

    monkeypatch.setattr(anyio, "sleep", wait)
    with pytest.raises(RuntimeError, match="exceeded error threshold"):
        asyncio.run(critical_service_loop(ask, interval, backoff=BACKOFF, printer=lambda *_: None))
    return sum(waited)


def environments() -> list[dict[str, str]]:
    """Give the variables of the workers of compose and Kubernetes."""
    compose = document(DEPLOY / "compose.yaml")["services"]["worker"]["environment"]
    container = document(DEPLOY / "k8s" / "prefect-worker.yaml")["spec"]["template"]["spec"]["containers"][0]
    return [compose, {each["name"]: each.get("value", "") for each in container["env"]}]


@pytest.mark.parametrize("name", ["PREFECT_WORKER_QUERY_SECONDS", "PREFECT_WORKER_HEARTBEAT_SECONDS"])
def test_workers_outlast_an_upgrade_of_the_server(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for environment in environments():
        assert endured(float(environment[name]), monkeypatch) >= UPGRADE_SECONDS
    assert endured(PREFECT_WORKER_QUERY_SECONDS.default(), monkeypatch) < UPGRADE_SECONDS  # which needs no more of ours
