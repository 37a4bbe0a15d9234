"""Answers to Envoy, byte by byte. Why it exists: a protobuf object for each answer costs more than the decision, and nearly all of
an answer is always the same; so it is spliced from pieces. The tests read every answer with the real messages.

Numbers are those of envoy/service/ext_proc/v3/external_processor.proto and google/protobuf/struct.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from struct import pack

DESTINATION = "x-gateway-destination-endpoint"
CHUNK = 62_000
"""Bytes of a body in one message of the streamed mode; Envoy's own bound is 64 KiB with what is around it."""

Fields = Mapping[str, str | float]


def varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def message(number: int, payload: bytes) -> bytes:
    """A field of bytes, text or a message, of a number below 16."""
    size = len(payload)
    return (bytes((number << 3 | 2, size)) if size < 0x80 else bytes((number << 3 | 2,)) + varint(size)) + payload


def field(name: str, value: str | float) -> bytes:
    """One entry of a google.protobuf.Struct."""
    inner = message(3, value.encode()) if isinstance(value, str) else b"\x11" + pack("<d", value)
    return message(1, message(1, name.encode()) + message(2, inner))


def text(name: str) -> Callable[[str], bytes]:
    """`field` of one name and texts, at a third of its price."""
    key = message(1, name.encode())
    around = len(key) + 4

    def make(value: str) -> bytes:
        data = value.encode()
        size = len(data)
        if size + around >= 0x80:
            return field(name, value)
        return b"\n%c%b\x12%c\x1a%c%b" % (size + around, key, size + 2, size, data)

    return make


def struct(fields: Fields) -> bytes:
    return b"".join([field(name, value) for name, value in fields.items()])


def numbers(estimate: float, prompt_bytes: float) -> bytes:
    """Both as fields: eight bytes each behind what never changes."""
    return _ESTIMATE + pack("<d", estimate) + _PROMPT_BYTES + pack("<d", prompt_bytes)


def namespace(name: str, fields: bytes) -> bytes:
    """A Struct within a Struct, as dynamic metadata has them."""
    return message(1, message(1, name.encode()) + message(2, message(5, fields)))


def header(name: str, value: str) -> bytes:
    """One HeaderValueOption of a HeaderMutation: set, whatever was there."""
    return message(1, message(1, message(1, name.encode()) + message(3, value.encode())) + b"\x18\x02")


_LB, _GATEWAY = message(1, b"envoy.lb"), message(1, b"gateway")
_ESTIMATE, _PROMPT_BYTES = field("estimate", 0.0)[:-8], field("prompt_bytes", 0.0)[:-8]
_NAME = message(1, DESTINATION.encode())
_chosen = text(DESTINATION)
HEADERS_CONTINUE = message(1, b"")
"""Nothing to say to the request's headers; Envoy waits for the body's answer."""
BODY_CONTINUE = message(3, b"")
TRAILERS_CONTINUE = message(5, b"")
RESPONSE_HEADERS_CONTINUE = message(2, b"")
RESPONSE_BODY_CONTINUE = message(4, b"")
RESPONSE_TRAILERS_CONTINUE = message(6, b"")


def _destination(endpoints: str) -> bytes:
    return message(1, message(1, _NAME + message(3, endpoints.encode())) + b"\x18\x02")


def picked(kind: int, endpoints: str, gateway: bytes, body: bytes | None = None, length: int | None = None) -> bytes:
    """The choice as an answer to headers (`kind` 1) or to a buffered body (3). `gateway`: a Struct's fields; `body`: instead of
    the client's; `length`: the new Content-Length."""
    headers = _destination(endpoints)
    if length is not None:
        headers += header("content-length", str(length))
    common = message(2, headers)
    if body is not None:
        common += message(3, message(1, body))
    metadata = message(1, _LB + message(2, message(5, _chosen(endpoints))))
    metadata += message(1, _GATEWAY + message(2, message(5, gateway)))
    return message(kind, message(1, common)) + message(8, metadata)


def passed(kind: int, gateway: bytes) -> bytes:
    """No choice; only why."""
    return message(kind, b"") + message(8, namespace("gateway", gateway))


def streamed(body: bytes, ends: bool, kind: int = 3) -> Iterable[bytes]:
    """The body in pieces, as FULL_DUPLEX_STREAMED has it; the last one ends the request if `ends`."""
    for start in range(0, max(1, len(body)), CHUNK):
        piece = message(1, body[start : start + CHUNK])
        if ends and start + CHUNK >= len(body):
            piece += b"\x10\x01"
        yield message(kind, message(1, message(3, message(3, piece))))


def immediate(status: int, headers: Mapping[str, str], body: bytes, details: str, gateway: bytes) -> bytes:
    """An answer in place of an engine's."""
    mutation = b"".join([header(name, value) for name, value in headers.items()])
    inner = message(1, b"\x08" + varint(status)) + message(2, mutation) + message(3, body)
    inner += message(5, details.encode())
    return message(7, inner) + message(8, namespace("gateway", gateway))


def more_time(seconds: float) -> bytes:
    """Asks Envoy to wait so long for the next answer; it is heard once for each message."""
    whole = int(seconds)
    return message(10, b"\x08" + varint(whole) + b"\x10" + varint(int((seconds - whole) * 1e9)))
