"""The rendezvous of the processes of a run on one machine, reachable from this machine only.

torch's own rendezvous listens on all network interfaces. gloo and NCCL, through which the processes then communicate,
listen on the address of the machine's host name or on the first network interface.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # exported, but not for mypy
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Environment variables with the network interface on which gloo and NCCL listen."""

BACKEND = "fcn-loopback"
ADDRESS = "127.0.0.1"


class LoopbackRendezvous(RendezvousHandler):
    """Rendezvous of a single agent. The ranks' process group uses the same store."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        with socket.create_server((ADDRESS, 0)) as listener:
            self._port = listener.getsockname()[1]
            self._store = TCPStore(
                ADDRESS,
                self._port,
                is_master=True,
                timeout=timedelta(minutes=10),
                wait_for_workers=False,
                multi_tenant=True,
                # A store that opens the port itself listens on all interfaces. libuv's accepts no open socket.
                master_listen_fd=listener.detach(),
                use_libuv=False,
            )

    @property
    def use_agent_store(self) -> bool:
        return True

    def get_backend(self) -> str:
        return BACKEND

    def get_run_id(self) -> str:
        return self._run_id

    def next_rendezvous(self) -> RendezvousInfo:
        store = PrefixStore(self._run_id, self._store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(ADDRESS, self._port))  # rank 0 of one agent

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def shutdown(self) -> bool:
        return True


def loopback_interfaces() -> dict[str, str]:
    """Return `INTERFACES` with the name of the loopback interface, except for variables that the user has set."""
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    return {name: loopback for name in INTERFACES if loopback and name not in os.environ}


rendezvous_handler_registry.register(BACKEND, lambda parameters: LoopbackRendezvous(parameters.run_id))
