"""HTTP/2 on the wire: kinds and flags of frames, header blocks, trailers. Why apart from `http2`: this has no state but what a
connection's peer put into its header table."""

from __future__ import annotations

from struct import Struct

from hpack import Decoder, HPACKError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, GROW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
PROTOCOL, FLOW, SIZE, REFUSED, COMPRESSION, CALM = 1, 3, 6, 7, 9, 11
"""Error codes of RFC 9113."""
OK, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 8, 12, 13
"""Statuses of gRPC."""
U32, MESSAGE, HEAD, SETTING = Struct(">I"), Struct(">BI"), Struct(">HBBBI"), Struct(">HI")
OPENING = b"\x88\x0f\x10\x10application/grpc"
"""Header block of an answer: status 200, content-type."""
EMPTY_TABLE = b"\x20"
_CACHED = 256


class Wrong(Exception):
    """The peer broke the protocol: the connection ends with this error code."""

    def __init__(self, code: int) -> None:
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEAD.pack(size >> 8, size & 255, kind, flags, stream) + payload


def trailers(status: int, message: str = "") -> bytes:
    code = str(status).encode()
    found = b"\x00\x0bgrpc-status" + bytes((len(code),)) + code
    if message:
        text = message.encode("ascii", "replace").replace(b"%", b"%25")[:100]
        found += b"\x00\x0cgrpc-message" + bytes((len(text),)) + text
    return found


class Paths:
    """Reads the path out of header blocks. Once the peer has agreed that the table is empty, equal blocks are equal headers."""

    __slots__ = ("_decoder", "known")

    def __init__(self) -> None:
        self._decoder = Decoder()
        self.known: dict[bytes, str] = {}

    def agreed(self) -> None:
        """The peer has seen that we want no table."""
        self._decoder.max_allowed_table_size = 0

    def read(self, block: bytes) -> str:
        """Wrong: no header block, or one that uses a table that is not there."""
        found = self.known.get(block)
        if found is None:
            try:
                headers = self._decoder.decode(block, raw=True)
            except (HPACKError, UnicodeDecodeError, IndexError) as error:
                raise Wrong(COMPRESSION) from error
            found = next((value.decode("latin-1") for name, value in headers if name == b":path"), "")
            if self._decoder.header_table_size == 0:
                if len(self.known) >= _CACHED:
                    self.known.clear()
                self.known[block] = found
        return found
