"""An automation of the Prefect server: flow runs of which nothing is heard any more are marked as crashed.

A worker marks the flow run whose process it loses. Where both end at once (a host, a pod) nobody does: the flow run
would stay Running, and hold up all later ones of its deployment.
"""

from datetime import timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

NAME = "charflow: flow runs of which nothing is heard"
# Long, since a server that was away as long takes runs at work for dead; such a run sets its state right when it ends.
SILENCE = timedelta(minutes=30)

_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = tuple(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed"))


def automation(tag: str) -> AutomationCore:
    """Give the automation for flow runs that have a tag."""
    words = f"nothing was heard of it for {SILENCE}: its process and its worker are gone, or cannot reach the server"
    return AutomationCore(
        name=NAME,
        description="Made by charflow deploy, once: what you change of it stays.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *_ENDS},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification({"prefect.resource.id": [f"prefect.tag.{tag}"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=words, force=False)],
    )


async def ensure_automation(client: PrefectClient, tag: str) -> None:
    """Make the automation, unless there is one of its name: an operator may have changed it, or switched it off."""
    if not await client.read_automations_by_name(NAME):
        await client.create_automation(automation(tag))
