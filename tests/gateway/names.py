"""Names of headless Services without a cluster: a DNS server that answers what it is told."""

from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSLogger, DNSServer


class Names(BaseResolver):
    """`addresses` by name, without the dot at its end; change it at any time. Nothing is kept by anybody."""

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.addresses: dict[str, list[str]] = {}
        quiet = DNSLogger(log="-request,-reply,-truncated,-error,-recv,-send,-data")
        self._servers = [DNSServer(self, address=address, port=port, tcp=tcp, logger=quiet) for tcp in (False, True)]
        for server in self._servers:
            server.start_thread()

    def resolve(self, request: DNSRecord, handler: object) -> DNSRecord:
        reply, name = request.reply(), str(request.q.qname).rstrip(".").lower()
        if name not in self.addresses:
            reply.header.rcode = RCODE.NXDOMAIN
        elif request.q.qtype in (QTYPE.A, QTYPE.ANY):
            for address in self.addresses[name]:
                reply.add_answer(RR(request.q.qname, QTYPE.A, ttl=1, rdata=A(address)))
        return reply

    def close(self) -> None:
        for server in self._servers:
            server.stop()
            server.server.server_close()
