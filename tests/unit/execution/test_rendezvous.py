"""Nothing of a run on one machine can be reached from another."""

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
    """Addresses on which a process listens, in hexadecimal as /proc has them."""
    links = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists() or link.is_symlink())
    own = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
    ]
    return {fields[1].partition(":")[0] for fields in lines if fields[3] == LISTENS and fields[9] in own}


def test_the_store_listens_on_this_machine_alone():
    before = listening(os.getpid())
    rendezvous = LoopbackRendezvous("run")
    info = rendezvous.next_rendezvous()
    assert listening(os.getpid()) - before <= {socket.inet_aton(ADDRESS)[::-1].hex().upper()}
    assert (info.rank, info.world_size, rendezvous.use_agent_store) == (0, 1, True)
    info.store.set("key", "value")
    other = TCPStore(info.bootstrap_store_info.master_addr, info.bootstrap_store_info.master_port, is_master=False)
    assert PrefixStore("run", other).get("key") == b"value"


def test_a_store_of_torch_itself_listens_to_all():
    """What the test above would see without our rendezvous."""
    before = listening(os.getpid())
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    assert {"00000000", "0" * 32} & (listening(os.getpid()) - before), store


def test_gloo_and_nccl_of_the_ranks_stay_on_the_interface_of_that_address_unless_told_otherwise(monkeypatch):
    """By themselves they take the address to which the machine's name resolves."""
    for name in INTERFACES:
        monkeypatch.delenv(name, raising=False)
    with processes._worker_environment(2), socket.socket() as any_socket:
        for name in INTERFACES:
            request = struct.pack("256s", os.environ[name].encode())
            SIOCGIFADDR = 0x8915
            assert socket.inet_ntoa(fcntl.ioctl(any_socket, SIOCGIFADDR, request)[20:24]) == ADDRESS
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    with processes._worker_environment(2):
        assert os.environ["NCCL_SOCKET_IFNAME"] == "eth7"
