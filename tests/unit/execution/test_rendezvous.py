"""The processes of a run on one machine listen on its loopback interface only."""

import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

import pytest
from torch.distributed import PrefixStore, TCPStore

from fcn.execution import processes
from fcn.execution.rendezvous import ADDRESS, INTERFACES, LoopbackRendezvous

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
LISTENS = "0A"


def listening(pid: int) -> set[str]:
    """Return the addresses on which a process listens, in the hexadecimal form of /proc."""
    links = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists() or link.is_symlink())
    own = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
    ]
    return {fields[1].partition(":")[0] for fields in lines if fields[3] == LISTENS and fields[9] in own}


def test_store_listens_on_the_loopback_address_only():
    before = listening(os.getpid())
    rendezvous = LoopbackRendezvous("run")
    info = rendezvous.next_rendezvous()
    assert listening(os.getpid()) - before <= {socket.inet_aton(ADDRESS)[::-1].hex().upper()}
    assert (info.rank, info.world_size, rendezvous.use_agent_store) == (0, 1, True)
    info.store.set("key", "value")
    other = TCPStore(info.bootstrap_store_info.master_addr, info.bootstrap_store_info.master_port, is_master=False)
    assert PrefixStore("run", other).get("key") == b"value"
    # The default store of torch listens on all interfaces; `listening` would detect it.
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    assert {"00000000", "0" * 32} & (listening(os.getpid()) - before), store


def test_gloo_and_nccl_listen_on_the_loopback_interface_unless_the_user_sets_another(monkeypatch):
    """Their default is the address of the machine's host name."""
    for name in INTERFACES:
        monkeypatch.delenv(name, raising=False)
    environment = processes.rank_environment(2)
    with socket.socket() as any_socket:
        for name in INTERFACES:
            request = struct.pack("256s", environment[name].encode())
            SIOCGIFADDR = 0x8915
            assert socket.inet_ntoa(fcntl.ioctl(any_socket, SIOCGIFADDR, request)[20:24]) == ADDRESS
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    assert "NCCL_SOCKET_IFNAME" not in processes.rank_environment(2)  # inherited as it is
