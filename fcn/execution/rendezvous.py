"""Where the processes of a run on one machine meet: a store that only this machine can reach.

torch's own rendezvous listens on all addresses of the machine, to whoever asks; gloo and NCCL, which the processes then
talk through, on that to which the machine's name resolves, or on the first one of its network.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore  # torch.distributed has them, but not for mypy
from torch.distributed.elastic.rendezvous.api import RendezvousParameters, rendezvous_handler_registry
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Environment variables that say where gloo and NCCL listen."""

BACKEND = "fcn-loopback"
ADDRESS = "127.0.0.1"


class LoopbackRendezvous(StaticTCPRendezvous):
    """The rendezvous of one agent; the ranks take its store for their process group too."""

    def __init__(self, run_id: str) -> None:
        with socket.create_server((ADDRESS, 0)) as listener:
            port = listener.getsockname()[1]
            super().__init__(ADDRESS, port, rank=0, world_size=1, run_id=run_id, timeout=600)
            # The other implementation, libuv's, takes no socket that listens already.
            self._store = TCPStore(
                ADDRESS,
                port,
                is_master=True,
                timeout=timedelta(seconds=600),
                wait_for_workers=False,
                multi_tenant=True,
                master_listen_fd=listener.detach(),
                use_libuv=False,
            )

    def get_backend(self) -> str:
        return BACKEND


def interfaces() -> dict[str, str]:
    """`INTERFACES` with the one that only this machine can reach, unless they are set."""
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    return {name: loopback for name in INTERFACES if loopback and name not in os.environ}


def _create(parameters: RendezvousParameters) -> LoopbackRendezvous:
    return LoopbackRendezvous(parameters.run_id)


rendezvous_handler_registry.register(BACKEND, _create)
