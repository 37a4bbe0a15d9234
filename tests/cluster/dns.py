"""Names of Services, as CoreDNS answers them with its stock configuration: from EndpointSlices, kept for 30 s.

The 30 s are the point: an answer that says "no such name" lives as long as one that says where it is, and a caller that
trusts DNS for readiness learns of a change that much later.
"""

import asyncio
import contextlib
import time

import httpx
from dnslib import QTYPE, RCODE, RR, SOA, A, DNSRecord

from tests.cluster.network import DNS
from tests.cluster.watch import Object, Watched

DOMAIN = "cluster.local"
KEPT = 30.0  # seconds, for good and for bad news
Answer = tuple[int, list[str]]


class Names:
    """Serves UDP and TCP on port 53 of the DNS address."""

    def __init__(self, api: httpx.AsyncClient) -> None:
        self._services = Watched(api, "/api/v1/services")
        self._slices = Watched(api, "/apis/discovery.k8s.io/v1/endpointslices")
        self._kept: dict[str, tuple[float, Answer]] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        names = self

        class Datagrams(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
                self.transport = transport

            def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
                with contextlib.suppress(Exception):  # garbage gets no answer
                    answer = names.answer(data, loop.time())
                    self.transport.sendto(answer if len(answer) <= 1232 else _cut(answer), address)

        await loop.create_datagram_endpoint(Datagrams, local_addr=(DNS, 53))
        server = await asyncio.start_server(self._stream, DNS, 53)
        async with server, asyncio.TaskGroup() as group:
            group.create_task(self._services.run())
            group.create_task(self._slices.run())

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(Exception):
            while True:
                size = int.from_bytes(await reader.readexactly(2))
                answer = self.answer(await reader.readexactly(size), time.monotonic())
                writer.write(len(answer).to_bytes(2) + answer)
                await writer.drain()
        writer.close()

    def forget(self) -> None:
        """As if 30 s had passed."""
        self._kept.clear()

    def answer(self, data: bytes, now: float) -> bytes:
        question = DNSRecord.parse(data)
        name = str(question.q.qname).rstrip(".").lower()
        expires, (code, addresses) = self._kept.get(name, (0.0, (0, [])))
        if now >= expires:
            code, addresses = self.find(name)
            self._kept[name] = (now + KEPT, (code, addresses))
            expires = now + KEPT
        reply, left = question.reply(), max(1, int(expires - now))
        reply.header.rcode = code
        if question.q.qtype in (QTYPE.A, QTYPE.ANY):
            for address in addresses:
                reply.add_answer(RR(name, QTYPE.A, ttl=left, rdata=A(address)))
        if not reply.rr:
            times = (1, 7200, 1800, 86400, int(KEPT))
            reply.add_auth(RR(DOMAIN, QTYPE.SOA, ttl=left, rdata=SOA(f"ns.{DOMAIN}", f"admin.{DOMAIN}", times)))
        packed: bytes = reply.pack()
        return packed

    def find(self, name: str) -> Answer:
        """Code and addresses: a Service's own, else those of its endpoints that are ready or published anyway."""
        parts = name.removesuffix(f".svc.{DOMAIN}").split(".")
        if not name.endswith(f".svc.{DOMAIN}") or len(parts) not in (2, 3):
            return RCODE.NXDOMAIN, []
        namespace, service = parts[-1], parts[-2]
        found = self._services.objects.get((namespace, service))
        if found is None:
            return RCODE.NXDOMAIN, []
        if found["spec"].get("clusterIP", "None") != "None" and len(parts) == 2:
            return RCODE.NOERROR, [found["spec"]["clusterIP"]]
        rows = [
            one for one in self._endpoints(namespace, service) if len(parts) == 2 or one.get("hostname") == parts[0]
        ]
        addresses = [a for one in rows if one["conditions"].get("ready") is not False for a in one["addresses"]]
        return (RCODE.NOERROR if addresses else RCODE.NXDOMAIN), sorted(set(addresses))

    def _endpoints(self, namespace: str, service: str) -> list[Object]:
        return [
            endpoint
            for (space, _), one in self._slices.objects.items()
            if space == namespace and one["metadata"].get("labels", {}).get("kubernetes.io/service-name") == service
            for endpoint in one["endpoints"] or ()
        ]


def _cut(answer: bytes) -> bytes:
    """Too long for a datagram: empty and marked, so that the caller asks again over TCP."""
    record = DNSRecord.parse(answer)
    record.rr, record.auth, record.header.tc = [], [], 1
    packed: bytes = record.pack()
    return packed
