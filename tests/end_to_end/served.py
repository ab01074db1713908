"""A Prefect server and a worker of processes on loopback, as a team would start them, and what tests ask of them."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

from tests.end_to_end.command import ROOT
from tests.end_to_end.test_interruption import engines_of, wait_until

POOL = "charflow"
_POLL_SECONDS = 0.5
_PREFECT = (sys.executable, "-m", "prefect")


class Served:
    """A server with a worker; ``environment`` is that of whoever talks to the server."""

    deploy_seconds = 0.0  # that the first call of ``charflow deploy`` took

    def __init__(self, folder: Path, *, port: int) -> None:
        self.root = folder / "runs"
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CHARFLOW_"))},
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'server.db'}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            "CHARFLOW_ROOT": str(self.root),
            "PYTHONPATH": str(ROOT),
        }

    def start(self, name: str, *words: str) -> "subprocess.Popen[bytes]":
        """Start a process of Prefect's that serves; its output is kept in the folder."""
        with open(self.folder / f"{name}.log", "wb") as log:
            return subprocess.Popen(
                [*_PREFECT, *words], env=self.environment, cwd=self.folder, stdout=log, stderr=log, process_group=0
            )

    def charflow(self, *words: str, code: int = 0) -> tuple[str, str]:
        """Run a command beside the server, check its exit code, and give both outputs."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == code, f"exit {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
        return done.stdout, done.stderr

    def deploy(self, *deployments: dict[str, Any], code: int = 0) -> str:
        """Register deployments, and give what is said of it."""
        file = self.folder / "prefect.yaml"
        file.write_text(yaml.safe_dump({"name": "charflow", "deployments": deployments}))
        out, err = self.charflow("deploy", "--file", str(file), code=code)
        return out + err

    def run(self, deployment: str, **parameters: Any) -> UUID:
        """Ask for a run of a deployment, now, and give its id."""
        made: UUID = self.ask(_created(deployment, parameters))
        return made

    def cancel(self, flow_run: UUID) -> None:
        """Ask for the end of a flow run, as the button in Prefect's page does."""
        self.ask(_cancelling(flow_run))

    def flow_run(self, flow_run: UUID) -> Any:
        """Give what the server knows of a flow run."""
        return self.ask(_read(flow_run))

    def ended(self, flow_run: UUID, *, seconds: float = 120) -> Any:
        """Wait for a flow run to end, and give what the server knows of it."""
        found = self.ask(_final(flow_run, seconds=seconds))
        assert found.state.is_final(), f"{found.state}\n{self.logs()}"
        return found

    def completed(self, flow_run: UUID) -> Any:
        """Wait for a flow run that must end well."""
        found = self.ended(flow_run)
        assert found.state.is_completed(), f"{found.state}\n{self.logs()}"
        return found

    def scheduled(self, deployment: str, *, seconds: float = 60) -> UUID:
        """Wait until the server's own scheduler has made a run of a deployment, and give the first."""
        found: UUID | None = self.ask(_first_of(deployment, seconds=seconds))
        assert found is not None, self.logs()
        return found

    def processes(self, flow_run: UUID) -> list[int]:
        """Give the processes of a flow run that works: its own, Ray's, and all below."""
        pid = int(self.flow_run(flow_run).infrastructure_pid.rpartition(":")[2])
        return [pid, *engines_of(pid)]

    def ask(self, question: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """Put a question to the server, through Prefect's client."""
        return asyncio.run(_asked(self.environment["PREFECT_API_URL"], question))

    def record(self, run: str) -> dict[str, Any]:
        """Give what the catalog holds of a run."""
        found = json.loads((self.root / run / "run.json").read_text())
        assert isinstance(found, dict)
        return found

    def logs(self) -> str:
        """Give the ends of what server and worker said."""
        return "\n".join(f"{path.name}:\n{path.read_text()[-4000:]}" for path in sorted(self.folder.glob("*.log")))


@contextmanager
def served(folder: Path, *, database: Path) -> Iterator[Served]:
    """Start a server and a worker, and end both; ``database`` is an empty one of this version, to be copied."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    here = Served(folder, port=port)
    shutil.copy(database, folder / "server.db")
    started = [here.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(port))]
    try:
        assert wait_until(lambda: _answers(port), seconds=120), here.logs()
        started.append(here.start("worker", "worker", "start", "--pool", POOL, "--type", "process"))
        yield here
    finally:
        for process in reversed(started):
            _end(process)


def in_seconds(seconds: float) -> str:
    """Give a moment as a schedule's anchor."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def database_name() -> str:
    """Give what a private server calls its database, of which ``prefect_home`` lays down one."""
    return f"prefect-{version('prefect')}.db"


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)  # a server told to end by SIGTERM leaves its services waiting
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _asked(url: str, question: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    from prefect.client.orchestration import PrefectClient

    async with PrefectClient(url) as client:
        return await question(client)


def _created(deployment: str, parameters: dict[str, Any]) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    async def question(client: Any) -> Any:
        found = await client.read_deployment_by_name(deployment)
        made = await client.create_flow_run_from_deployment(found.id, parameters={**found.parameters, **parameters})
        return made.id

    return question


def _cancelling(flow_run: UUID) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    async def question(client: Any) -> None:
        from prefect.states import Cancelling

        await client.set_flow_run_state(flow_run, Cancelling())

    return question


def _read(flow_run: UUID) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    async def question(client: Any) -> Any:
        return await client.read_flow_run(flow_run)

    return question


def _final(flow_run: UUID, *, seconds: float) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    async def question(client: Any) -> Any:
        end = time.monotonic() + seconds
        while not (found := await client.read_flow_run(flow_run)).state.is_final() and time.monotonic() < end:
            await asyncio.sleep(_POLL_SECONDS)
        return found

    return question


def _first_of(deployment: str, *, seconds: float) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    async def question(client: Any) -> UUID | None:
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
        from prefect.client.schemas.sorting import FlowRunSort

        found = await client.read_deployment_by_name(deployment)
        chosen = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            runs = await client.read_flow_runs(deployment_filter=chosen, sort=FlowRunSort.EXPECTED_START_TIME_ASC)
            if runs:
                return UUID(str(runs[0].id))
            await asyncio.sleep(_POLL_SECONDS)
        return None

    return question
