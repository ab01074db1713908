"""Workers of a training meet and talk on addresses of Ray alone."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from torch import distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]

from tasks.training import ddp
from tasks.training.group import Group
from tasks.training.meeting import INTERFACE, hosted, interface_of, talk_on
from tests.conftest import ROOT
from tests.rays import import_ray

# a group of one rank, and the addresses at which its process then listens
LISTENING = """
import os, sys, ray, psutil
from torch import distributed as dist
from torch.distributed import HashStore
from tasks.training.meeting import talk_on
talk_on(sys.argv[1])
dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
found = psutil.Process(os.getpid()).net_connections("inet")
print(*sorted({c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN}))
"""


def test_the_store_where_ranks_meet_listens_on_the_nodes_address_alone() -> None:
    store = hosted("127.0.0.1", 1)
    with socket.socket() as here, socket.socket() as elsewhere:
        assert here.connect_ex(("127.0.0.1", store.port)) == 0
        assert elsewhere.connect_ex(("127.0.0.2", store.port)) != 0  # another address of the same host
    store.set("key", "value")
    assert store.get("key") == b"value"


@pytest.fixture(autouse=True, scope="module")
def psutil_on_the_path() -> None:
    """Import Ray, which brings it."""
    import_ray()


def addresses() -> dict[str, str]:
    """Give the first address of each interface, by which gloo knows it."""
    import psutil

    return {
        name: next(entry.address for entry in entries if entry.family == socket.AF_INET)
        for name, entries in psutil.net_if_addrs().items()
        if any(entry.family == socket.AF_INET for entry in entries)
    }


@pytest.mark.slow
def test_gloo_listens_on_rays_address_alone_whatever_the_hosts_name_is() -> None:
    """Each one that this machine has; its name stands for at most one of them."""
    environment = {name: value for name, value in os.environ.items() if name != INTERFACE}
    for address in addresses().values():
        words = [sys.executable, "-c", LISTENING, address]
        done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.stdout == f"{address}\n", done.stderr


def test_an_interface_is_found_by_its_address() -> None:
    assert {name: interface_of(address) for name, address in addresses().items()} == {
        name: name for name in addresses()
    }
    loopback = interface_of("127.0.0.1")
    assert loopback
    assert interface_of("127.0.0.7") == loopback  # Ray's nodes of one machine may have these
    assert interface_of("203.0.113.9") == ""


def test_who_chose_an_interface_keeps_it_and_an_address_of_none_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(INTERFACE, "ib0")
    talk_on("127.0.0.1")
    assert os.environ[INTERFACE] == "ib0"
    monkeypatch.delenv(INTERFACE)
    talk_on("203.0.113.9")
    assert INTERFACE not in os.environ
    assert (
        f"no interface has 203.0.113.9, Ray's address of this node; if workers do not meet, set {INTERFACE}"
        in caplog.text
    )


def test_a_worker_chooses_the_interface_before_its_group_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray Train tells a worker is made up, and nobody else takes part."""
    import ray.train

    seen: list[str | None] = []
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 2)
    monkeypatch.setenv(INTERFACE, "")  # so that it is put back
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ddp, "_meter", lambda *_: print)
    monkeypatch.setattr(ddp, "_meet", lambda *_: HashStore())
    monkeypatch.setattr(ddp, "_address", lambda: "127.0.0.1")
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: seen.append(os.environ.get(INTERFACE)))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)

    def work(_: str, group: Group) -> None:
        assert (group.rank, group.world) == (0, 2)
        seen.append("at work")

    ddp._take_part({"worker": work, "request": "", "gpu_share": 0.0, "parts": 0})
    assert seen == [interface_of("127.0.0.1"), "at work"]
