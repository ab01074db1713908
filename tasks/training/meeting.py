"""Where workers of a training meet and over what they talk: a port and an interface of their nodes, and of no more."""

import logging
import os
import socket
from ipaddress import ip_address

from torch.distributed import TCPStore  # type: ignore[attr-defined]

logger = logging.getLogger(__name__)

INTERFACE = "GLOO_SOCKET_IFNAME"  # gloo's own variable, which torch reads when it makes a group


def backend(gpu_share: float) -> str:
    """Give what workers talk over: NCCL takes one rank a GPU, gloo all else."""
    return "nccl" if gpu_share >= 1 else "gloo"


def talk_on(address: str) -> None:
    """Let gloo talk on the interface of this node that has an address, unless the user chose one.

    Left to itself it listens on whatever the host's name resolves to: 127.0.1.1 on Debian, where no other node reaches
    it, or an address of the local network for a Ray that is on loopback. torch takes no other word for it.
    """
    if os.environ.get(INTERFACE):
        return
    found = interface_of(address)
    if found:
        os.environ[INTERFACE] = found
    else:
        logger.warning(
            "no interface has %s, Ray's address of this node; if workers do not meet, set %s", address, INTERFACE
        )


def interface_of(address: str) -> str:
    """Give the name of the interface that has an address, one that has another of loopback for such; or nothing."""
    import psutil  # Ray brings it, and puts it on the path when it is imported

    sought = ip_address(address)
    for name, entries in psutil.net_if_addrs().items():
        own = [
            ip_address(e.address.partition("%")[0]) for e in entries if e.family in (socket.AF_INET, socket.AF_INET6)
        ]
        if sought in own or (sought.is_loopback and any(each.is_loopback for each in own)):
            return str(name)
    return ""


def hosted(host: str, world: int) -> TCPStore:
    """Host a store on one address of this node; left to itself it listens on all of them."""
    listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    port = listener.getsockname()[1]
    descriptor = listener.detach()  # which is the store's now
    return TCPStore(host, port, world, is_master=True, wait_for_workers=False, master_listen_fd=descriptor)
