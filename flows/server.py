"""The Prefect API of a command: the server that the user named, or a private one that lives as long as the command.

A private server listens on one loopback port and keeps its database in a folder of its own; several at once may share
that folder. This module runs twice: imported by the driver, and as the server process itself (``python server.py``).
Prefect is imported inside functions on purpose: the import takes over a second and reads the environment, so the
driver prepares the environment first and imports while the server is starting.
"""

import asyncio
import fcntl
import http.client
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn

TAG = "charflow"  # of flow runs and deployments that are ours

# A fresh database takes 15 s on two idle cores; a loaded machine may need several times that.
START_SECONDS = 180.0
# Nearly always 0.2 s; the last events may have to wait until another command's server has written to the database.
STOP_SECONDS = 15.0
PARENT_POLL_SECONDS = 0.5

CLIENT_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
}
# The "ephemeral" server runs few services; of those only the one that records task runs is of use to a command.
SERVER_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",  # done here, under a lock
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
    # The recorder, asked to end, writes one last batch and loses what waits behind it. A batch is one event by default;
    # here it is more than a command says in a second, the time between writes.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "1000",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


def keep_client_quiet() -> None:
    """Let Prefect's client say little, and report to nobody; before Prefect is imported, which reads it."""
    for name, value in CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def prefect_api(home: Path) -> Iterator[Callable[[], None]]:
    """Make flows of this process report to a Prefect API, and give a function that waits until it answers.

    Slow imports belong before the call of that function: a private server takes seconds to start, on another core.

    ``PREFECT_API_URL`` (environment, profile or prefect.toml) wins; otherwise a private server is started and, on
    leaving, stopped. The private server ends by itself when this process dies, however it dies. Enter this before
    importing anything that imports Prefect: its first import on a terminal reports to its makers unless told not to.

    Args:
        home: folder for the private server's database and log; created if absent, shared by commands at will.

    Raises:
        ConnectionError: on waiting: the server that the user named does not answer, or the private one does not start.
    """
    keep_client_quiet()
    with ExitStack() as stack:
        # Started on the guess that no profile names a server, which only the slow import can tell.
        port = None if os.environ.get("PREFECT_API_URL") else stack.enter_context(_private_server(home))
        from prefect.events.worker import EventsWorker
        from prefect.settings import PREFECT_API_URL, temporary_settings

        named = PREFECT_API_URL.value()
        if named or port is None:
            stack.close()
            url = str(named)
            wait = partial(require_answer, url)
            settings: dict[str, object] = {}
        else:
            url = f"http://127.0.0.1:{port}/api"
            wait = partial(_await_private_server, port, log=home / "server.log")
            # Heartbeats tell a server that a flow died, at the price of a second at the end of each; ours dies with it.
            settings = {"api.url": url, "logging.to_api.enabled": False, "flows.heartbeat_frequency": None}
        with temporary_settings({"logging.level": "WARNING"} | settings):
            try:
                yield wait
            finally:
                # Events travel on a thread of their own, and what is queued must leave before the server does. The
                # thread's logger is not one of Prefect's, and warns whenever there is anything to wait for.
                logging.getLogger(EventsWorker.__name__).setLevel(logging.ERROR)
                EventsWorker.drain_all(timeout=STOP_SECONDS)


@contextmanager
def _private_server(home: Path) -> Iterator[int]:
    """Starts the server process without waiting for it, gives its port, and stops it on leaving."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= SERVER_ENVIRONMENT | {"PREFECT_HOME": str(home.resolve())}
    with socket.create_server(("127.0.0.1", 0)) as listener, open(home / "server.log", "ab") as log:
        port: int = listener.getsockname()[1]
        # The listening socket is handed over: no port can be lost in between, and early requests queue.
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).resolve()), str(listener.fileno()), str(os.getpid())],
            env=environment,
            cwd=home,  # a prefect.toml in the user's folder is not for this server
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            process_group=0,  # Ctrl-C is for the driver, which still has a last state to report
        )
    try:
        yield port
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_private_server(port: int, *, log: Path) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)) as connection:
        try:
            connection.request("GET", "/api/health")
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(f"the private prefect server did not start, got {error!r}: see {log}") from error
    if status != http.client.OK:
        raise ConnectionError(f"the private prefect server must be healthy, got status {status}: see {log}")


def require_answer(url: str) -> None:
    """Raise :class:`ConnectionError` unless a Prefect API answers at this address."""
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10).close()
    except urllib.error.HTTPError as error:
        error.close()  # an answer all the same: whether we may use the server is the client's affair
    except (OSError, ValueError, http.client.HTTPException) as error:
        told = without_password(url)
        reason = getattr(error, "reason", error) if told == url else type(error).__name__  # which may repeat it
        raise ConnectionError(
            f"PREFECT_API_URL must name a server that answers, got {told!r} ({reason}): start that server or unset it"
        ) from None


def without_password(url: str) -> str:
    """Give an address as it may be printed."""
    return re.sub(r"//[^/]*@", "//...@", url)


def _end_with(driver: int) -> None:
    """Ends this process soon after its driver is gone; a signal on parent death would follow a mere thread's end."""
    while os.getppid() == driver:
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


async def _create_database(path: Path) -> None:
    from prefect.server.database import provide_database_interface
    from prefect.server.database.configurations import AioSqliteConfiguration
    from prefect.server.database.dependencies import temporary_database_config

    with temporary_database_config(AioSqliteConfiguration(connection_url=_sqlite_url(path))):
        database = provide_database_interface()
        await database.create_db()
        await (await database.engine()).dispose()


def _ensure_database(path: Path) -> None:
    """Creates the database under another name and renames it, so that a killed start never leaves half of one."""
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        partial = path.with_suffix(".partial")
        for leftover in path.parent.glob(f"{partial.name}*"):
            leftover.unlink()
        asyncio.run(_create_database(partial))
        partial.replace(path)


def _sqlite_url(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def _serve(listener: socket.socket, *, home: Path) -> None:
    import prefect
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import temporary_settings

    # One database per version: an upgrade would need every other command to be over.
    path = home / f"prefect-{prefect.__version__}.db"
    _ensure_database(path)
    with temporary_settings({"server.database.connection_url": _sqlite_url(path)}):
        app = create_app(ephemeral=True, final=True)
        logging.getLogger("prefect.server.services.task_run_recorder").addFilter(_is_no_cancelled_flush)
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listener])


def _is_no_cancelled_flush(record: logging.LogRecord) -> bool:
    """Drops one traceback: the recorder, ending, cancels the flush it is in and writes the same events once more."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _main() -> NoReturn:
    descriptor, driver = (int(argument) for argument in sys.argv[1:])
    threading.Thread(target=_end_with, args=(driver,), daemon=True).start()
    _serve(socket.socket(fileno=descriptor), home=Path(os.environ["PREFECT_HOME"]))
    sys.exit()


if __name__ == "__main__":
    _main()
