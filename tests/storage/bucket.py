"""A bucket of moto's server on loopback, behind a proxy that does harm by a script, and a client that dies on time."""

import http.client
import logging
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Lock, Thread
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from storage import remote
from storage.remote import RemotePath
from tests.storage.disk import Death

BUCKET = "s3://bucket"
SECRETS = {"AWS_ACCESS_KEY_ID": "AKIASENTINELSENTINEL", "AWS_SECRET_ACCESS_KEY": "sentinel/secret+key0123456789abcdef"}
TIMEOUT_SECONDS = 1.5  # of the client in tests; a busy machine must not reach it


@dataclass(frozen=True)
class Fault:
    """What becomes of one request and its answer."""

    status: int = 0  # that is answered instead of the server's own; 0: the server's own
    is_served: bool = False  # the server does the work all the same
    is_cut: bool = False  # the connection ends without an answer
    is_torn: bool = False  # the connection ends within the answer's body
    seconds: float = 0.0  # that the answer takes longer


SOUND = Fault(is_served=True)
FAILED = Fault(status=500)
BUSY = Fault(status=503)
CUT = Fault(is_cut=True)
LOST = Fault(is_served=True, is_cut=True)
LOST_IN_500 = Fault(is_served=True, status=500)
TORN = Fault(is_served=True, is_torn=True)


def slow(seconds: float) -> Fault:
    return Fault(is_served=True, seconds=seconds)


class Proxy(ThreadingHTTPServer):
    """Passes requests on; ``script`` says what becomes of each, and ``log`` keeps ``METHOD path`` of all."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.log: list[str] = []
        self.script: Callable[[str], Fault] = lambda request: SOUND
        self.under_way = 0  # requests
        self.most_at_once = 0  # requests that were on their way together
        self.lock = Lock()
        self.creating = Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away: they gave up waiting."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits for an acknowledgement
    server: Proxy

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            request = f"{self.command} {self.path}"
            self.server.log.append(request)
            self.server.under_way += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.under_way)
            fault = self.server.script(request)
        try:
            self._meet(fault, body)
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def _meet(self, fault: Fault, body: bytes) -> None:
        # moto looks whether an object is there and then puts it, which a real store does at once
        with self.server.creating if self.headers.get("If-None-Match") else nullcontext():
            answer = self._served(body) if fault.is_served else None
        time.sleep(fault.seconds)
        if fault.is_cut or fault.is_torn:
            self.close_connection = True
        if fault.is_cut:
            return
        if fault.status or answer is None:
            answer = (fault.status, [], b"<Error><Code>InternalError</Code></Error>")
        self._answer(*answer, is_torn=fault.is_torn)

    def _served(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, is_torn: bool) -> None:
        self.send_response_only(status)
        is_head = self.command == "HEAD"
        ours = {"transfer-encoding", "connection"} | (set() if is_head else {"content-length"})
        for name, value in headers:
            if name.lower() not in ours:
                self.send_header(name, value)
        if not is_head:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if is_head else body[: len(body) // 2] if is_torn else body)
        self.wfile.flush()


def faults(*first: Fault, then: Fault = SOUND) -> Callable[[str], Fault]:
    """Give the script of some requests' fates, in order, and of all after them."""
    fates = iter(first)
    return lambda request: next(fates, then)


def once_each(fault: Fault) -> Callable[[str], Fault]:
    """Give the script by which every request fails, and then, made again, does not."""
    turns = count()
    return lambda request: fault if next(turns) % 2 == 0 else SOUND


@contextmanager
def serving() -> Iterator[Proxy]:
    """Run the server, with an empty bucket, and the proxy before it as long as the block lasts."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = Proxy(server.get_host_and_port()[1])
    thread = Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    urllib.request.urlopen(urllib.request.Request(f"{proxy.url}/{BUCKET.partition('://')[2]}", method="PUT")).close()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
        server.stop()


def environment(proxy: Proxy) -> dict[str, str]:
    """Give what a process needs to reach the bucket."""
    return {"AWS_ENDPOINT_URL": proxy.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1", **SECRETS}


def hasten(patch: pytest.MonkeyPatch, *, timeout: float = TIMEOUT_SECONDS) -> None:
    """Let this process's client give up early."""
    backoff = {"init_backoff": timedelta(milliseconds=5), "max_backoff": timedelta(milliseconds=20)}
    patch.setattr(remote, "CLIENT", {"connect_timeout": "1s", "timeout": f"{timeout * 1000:.0f}ms"})
    patch.setattr(remote, "PATIENCE", {"max_retries": 2, "retry_timeout": timedelta(seconds=20), "backoff": backoff})
    remote._opened.cache_clear()


class Client:
    """An obstore store whose requests are counted; before one, or before it and all after, something happens."""

    def __init__(self, store: Any, *, at: int, act: Callable[[], object], is_lasting: bool) -> None:
        self.requests = 0
        self._store, self._act = store, act
        self._when = range(at, sys.maxsize) if is_lasting else range(at, at + 1)

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        def request(*args: Any, **kwargs: Any) -> Any:
            self.requests += 1
            if self.requests in self._when:
                self._act()
            return call(*args, **kwargs)

        return request


@contextmanager
def interrupted(at: int, act: Callable[[], object], *, is_lasting: bool = False) -> Iterator[Client]:
    """Do something just before the ``at``-th request of the code inside; its own requests go uncounted."""
    open_ = remote._opened
    client = Client(open_(BUCKET), at=at, act=lambda: _without(open_, act), is_lasting=is_lasting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_opened", lambda bucket: client)
        yield client


def deaths(act: Callable[[int], Callable[[], object]]) -> int:
    """Let an act die before its first request, its second and so on until it lives through; give the number of deaths.

    A process that dies between two requests has had all before served and none after, so this is every crash there is.

    Args:
        act: prepares the k-th try and gives what is tried; the test looks at what is left between two calls of it.
    """

    def die() -> None:
        raise Death

    for k in count(1):
        attempt = act(k)
        with interrupted(k, die, is_lasting=True):  # a dead process does not clean up
            try:
                attempt()
            except Death:
                continue
        return k - 1
    raise AssertionError


def contents(folder: RemotePath) -> dict[str, bytes]:
    """Give every object's content by its key inside a folder."""
    return {path.key.removeprefix(f"{folder.key}/"): path.read_bytes() for path in folder.files()}


def spoil(path: RemotePath, at: int = 99) -> bytes:
    """Flip a bit of an object, and give what it was."""
    good = path.read_bytes()
    path.write(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
    return good


def _without(open_: Any, act: Callable[[], object]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_opened", open_)
        act()
