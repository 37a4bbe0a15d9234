"""Addresses: each pod has a network namespace of its own, one veth pair and one route away from the nodes' namespace.

So pods listen on 0.0.0.0 and talk to their own containers on 127.0.0.1 as in any cluster, several on the same port, and a
pod is cut off by taking its link down. All nodes share one namespace, in which kube-proxy's rules are.
"""

import asyncio
import contextlib
import ipaddress
import subprocess
from pathlib import Path

from tests.cluster.control_plane import ADDRESS

GATEWAY = "169.254.1.1"  # every pod's way out, as Calico does it; an address that routes nowhere else
DNS = "10.244.0.10"
# A flow to a pod that vanished is remembered for 120 s, or for days if it was open. Our clients share one address and use a
# port again within a minute: the new connection would go the old way, as it would in a cluster under this much load.
_FLOWS = {"syn_sent": 3, "established": 15}
_FIRST_POD, _LAST_POD = map(ipaddress.IPv4Address, ("10.244.1.1", "10.244.255.254"))


class Network:
    """Run `prepare` once in the nodes' namespace; then `join` pods."""

    def __init__(self) -> None:
        self._next = _FIRST_POD

    async def prepare(self) -> None:
        lines = ["link set lo up"]
        lines += [f"addr add {address}/32 dev lo" for address in (ADDRESS, DNS, GATEWAY)]
        lines.append(
            f"route add default dev lo src {ADDRESS}"
        )  # kube-proxy's addresses need a route to be rewritten on
        await _ip(*lines)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for state, seconds in _FLOWS.items():
            with contextlib.suppress(FileNotFoundError):  # the kernel module is loaded with the first rule
                Path(f"/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{state}").write_text(str(seconds))

    def address(self) -> str:
        """One that no pod had before."""
        if self._next > _LAST_POD:
            raise RuntimeError("out of addresses: 65,000 pods in one run")
        address, self._next = str(self._next), self._next + 1
        return address

    async def join(self) -> "Link":
        """A new namespace with an address of its own."""
        address = self.address()
        keeper = await asyncio.create_subprocess_exec("unshare", "--net", "--kill-child", "sleep", "infinity")
        link = Link(address, f"p{int(ipaddress.IPv4Address(address)) & 0xFFFF:x}", keeper)
        while Path(f"/proc/{keeper.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            await asyncio.sleep(0.002)
        await _ip(
            f"link add {link.name} type veth peer name eth0 netns {keeper.pid}",
            f"link set {link.name} up",
            f"route add {address}/32 dev {link.name} src {ADDRESS}",
        )
        await _ip(
            "link set lo up",
            f"addr add {address}/32 dev eth0",
            "link set eth0 up",
            f"route add {GATEWAY} dev eth0",
            f"route add default via {GATEWAY} dev eth0",
            inside=keeper.pid,
        )
        return link


class Link:
    """A pod's end. `pid` is a process that keeps the namespace."""

    def __init__(self, address: str, name: str, keeper: asyncio.subprocess.Process) -> None:
        self.address, self.name, self._keeper = address, name, keeper

    @property
    def pid(self) -> int:
        return self._keeper.pid

    async def cut(self) -> None:
        """Nothing gets in or out, and nobody is told: packets vanish, as when a cable is pulled."""
        await _ip(f"link set {self.name} down")

    async def mend(self) -> None:
        await _ip(f"link set {self.name} up", f"route replace {self.address}/32 dev {self.name} src {ADDRESS}")

    async def leave(self) -> None:
        self._keeper.kill()
        await self._keeper.wait()  # the veth pair goes with the namespace


async def _ip(*lines: str, inside: int | None = None) -> None:
    command = (
        ["ip", "-batch", "-"] if inside is None else ["nsenter", f"--net=/proc/{inside}/ns/net", "ip", "-batch", "-"]
    )
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate("\n".join(lines).encode() + b"\n")
    if process.returncode:
        raise RuntimeError(f"ip: {said.decode()} in {lines}")
