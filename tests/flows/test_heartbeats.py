"""Flow runs of which nothing is heard are marked as crashed: what the server makes of the automation."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.events.schemas.automations import AutomationCore
from prefect.server.events.schemas.automations import AutomationCreate, EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from flows import registration
from flows.heartbeats import NAME, SILENCE, automation, ensure_automation
from flows.server import TAG
from tests.deploy.files import DEPLOY, document, documents

HEARTBEAT = "prefect.flow-run.heartbeat"


class Client:
    """Stands for the server's client: what it keeps is what the server would, as it reads it."""

    def __init__(self) -> None:
        self.kept: list[AutomationCreate] = []

    async def read_automations_by_name(self, name: str) -> list[AutomationCreate]:
        return [each for each in self.kept if each.name == name]

    async def create_automation(self, automation: AutomationCore) -> None:
        self.kept.append(AutomationCreate.model_validate(automation.model_dump(mode="json")))


def made() -> AutomationCreate:
    client = Client()
    asyncio.run(ensure_automation(cast(PrefectClient, client), TAG))
    (found,) = client.kept
    return found


def event(kind: str, *, tag: str, resource: str = "prefect.flow-run") -> ReceivedEvent:
    now = datetime.now(UTC)
    values: Any = {
        "id": uuid4(),
        "occurred": now,
        "received": now,
        "event": kind,
        "resource": {"prefect.resource.id": f"{resource}.{uuid4()}"},
        "related": [
            {"prefect.resource.id": f"prefect.deployment.{uuid4()}", "prefect.resource.role": "deployment"},
            {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"},
        ],
    }
    return ReceivedEvent.model_validate(values)


def trigger() -> EventTrigger:
    found = made().trigger
    assert isinstance(found, EventTrigger)
    return found


def test_it_is_made_once_and_what_an_operator_changed_stays() -> None:
    client = Client()
    for _ in range(2):
        asyncio.run(ensure_automation(cast(PrefectClient, client), TAG))
        client.kept[0].enabled = False
    assert [(each.name, each.enabled) for each in client.kept] == [(NAME, False)]


@pytest.mark.parametrize("kind", [HEARTBEAT, *(f"prefect.flow-run.{s}" for s in ("Completed", "Failed", "Crashed"))])
def test_silence_is_counted_from_each_heartbeat_of_our_flow_runs_until_their_end(kind: str) -> None:
    found = trigger()
    assert found.covers(event(kind, tag=TAG))
    assert found.expects(kind)
    assert found.starts_after(kind) is (kind == HEARTBEAT)
    assert found.meets_threshold(0)
    assert not found.meets_threshold(1)


def test_others_are_let_be_and_each_flow_run_counts_for_itself() -> None:
    found = trigger()
    assert not found.covers(event(HEARTBEAT, tag="of-another-project"))
    assert not found.covers(event("prefect.flow-run.Running", tag=TAG))  # a retry of a server's is no sign of life
    one, other = event(HEARTBEAT, tag=TAG), event(HEARTBEAT, tag=TAG)
    assert found.bucketing_key(one) != found.bucketing_key(other)


def test_the_flow_run_becomes_crashed_with_a_word_why() -> None:
    (action,) = made().actions
    told = action.model_dump(mode="json")
    assert told["type"] == "change-flow-run-state"
    assert told["state"] == "CRASHED"
    assert told["force"] is False  # a flow run that has ended stays as it is
    assert "nothing was heard of it for 0:30:00" in told["message"]


def test_workers_tell_often_enough() -> None:
    compose = document(DEPLOY / "compose.yaml")["services"]["worker"]["environment"]
    (cluster,) = documents(DEPLOY / "k8s" / "environment.yaml")
    told = [each["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] for each in (compose, cluster["data"])]
    for seconds in (*told, PREFECT_FLOWS_HEARTBEAT_FREQUENCY.default()):  # the laptop's is Prefect's
        assert 30 <= float(seconds) <= SILENCE.total_seconds() / 10


def test_registering_deployments_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()

    class Opened:
        async def __aenter__(self) -> Client:
            return client

        async def __aexit__(self, *_: object) -> None: ...

    async def no_rivals(*_: object) -> None: ...

    monkeypatch.setattr(registration, "get_client", Opened)
    monkeypatch.setattr(registration, "_require_no_rivals", no_rivals)
    assert registration.register([]) == []
    assert [each.name for each in client.kept] == [automation(TAG).name]
