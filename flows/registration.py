"""Makes a Prefect server know the deployments of a file: their work pools, concurrency limits, schedules and forms."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowFilter,
    FlowFilterId,
    WorkerFilter,
    WorkerFilterStatus,
)
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from flows.deployments import Deployment, PoolEntry, require_one_schedule_a_store, scheduled, store_of
from flows.heartbeats import ensure_automation
from flows.server import TAG, require_answer, without_password
from storage.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What the server made of a deployment."""

    name: str  # flow/deployment, as prefect deployment run takes it
    pool: str
    has_worker: bool  # whether anyone is there to run it


def require_server() -> str:
    """Give the address of the Prefect API that the user named.

    Raises:
        InputError: there is none, or it does not answer.
    """
    url = str(PREFECT_API_URL.value() or "")
    if not url:
        raise InputError(
            "PREFECT_API_URL must name the server that is to keep the deployments, and is not set; prefect server "
            "start starts one and tells its address"
        )
    try:
        require_answer(url)
    except ConnectionError as error:
        raise InputError(str(error)) from error
    return url


def register(deployments: Sequence[Deployment]) -> list[Registered]:
    """Register deployments, or what has changed of them, and give what the server makes of them.

    Raises:
        InputError: another deployment there has a schedule on the same store, or the server refuses one.
    """
    try:
        return asyncio.run(_register(deployments))
    except (PrefectHTTPStatusError, httpx.HTTPError) as error:
        reason = without_password(" ".join(str(error).split()))
        raise InputError(f"the Prefect server refuses it: {reason}") from error


async def _register(deployments: Sequence[Deployment]) -> list[Registered]:
    async with get_client() as client:
        await _require_no_rivals(client, deployments)
        pools = {d.entry.work_pool.name: d.entry.work_pool for d in deployments}
        staffed = {name: await _ensure_pool(client, pool) for name, pool in pools.items()}
        await ensure_automation(client, TAG)
        made = [await _registered(client, deployment) for deployment in deployments]
        return [
            Registered(name=name, pool=d.entry.work_pool.name, has_worker=staffed[d.entry.work_pool.name])
            for name, d in zip(made, deployments, strict=True)
        ]


async def _require_no_rivals(client: PrefectClient, deployments: Sequence[Deployment]) -> None:
    """Raise where a deployment that the server has already, of another file, schedules the same on the same store."""
    known = scheduled(deployments)
    ours = {(d.flow.name, d.entry.name) for d in deployments}
    charflows = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    for other in await client.read_deployments(deployment_filter=charflows):
        active = [schedule for schedule in other.schedules if schedule.active and not other.paused]
        if not active:
            continue
        (flow,) = await client.read_flows(flow_filter=FlowFilter(id=FlowFilterId(any_=[other.flow_id])))
        if (flow.name, other.name) not in ours:
            stores = {store_of({**other.parameters, **(schedule.parameters or {})}) for schedule in active}
            known += [(flow.name, other.name, store) for store in sorted(stores)]
    require_one_schedule_a_store(known)


async def _ensure_pool(client: PrefectClient, pool: PoolEntry) -> bool:
    """Make a pool of processes, unless there is one of that name, of whatever type; tell whether a worker serves it."""
    try:
        await client.read_work_pool(pool.name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        await client.create_work_pool(
            WorkPoolCreate(name=pool.name, type=ProcessWorker.type, base_job_template=template)
        )
    online = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
    return bool(await client.read_workers_for_work_pool(pool.name, worker_filter=online))


async def _registered(client: PrefectClient, deployment: Deployment) -> str:
    entry, flow, limit = deployment.entry, deployment.flow, deployment.limit
    await client.create_deployment(
        flow_id=await client.create_flow(flow),
        name=entry.name,
        version=entry.version,
        entrypoint=entry.entrypoint,
        description=entry.description or flow.description,
        tags=sorted({TAG, *entry.tags}),
        parameters=entry.parameters,
        parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
        enforce_parameter_schema=False,  # the flow says in one line what is wrong, the server in a page
        schedules=deployment.schedules,
        paused=entry.paused,
        concurrency_limit=limit.limit if limit else None,
        concurrency_options=ConcurrencyOptions(collision_strategy=limit.collision_strategy) if limit else None,
        work_pool_name=entry.work_pool.name,
        work_queue_name=entry.work_pool.work_queue_name,
        job_variables=_with_safe_path(entry.work_pool.job_variables),
        pull_steps=[],
    )
    return f"{flow.name}/{entry.name}"


def _with_safe_path(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the folders of scripts out of the import path of a flow's processes.

    Prefect calls hooks by a script of its package ``prefect.runner``, beside which lies a ``storage.py`` that would be
    imported for ours.
    """
    return {**variables, "env": {"PYTHONSAFEPATH": "1", **variables.get("env", {})}}
