"""The Endpoint Picker protocol: messages of one ext_proc stream in, messages out. Why it stands alone: it has no sockets and no
tasks, so each order of messages that a gateway may send is a line in a test.

    BUFFERED              headers -> continue; whole body -> the choice
    FULL_DUPLEX_STREAMED  headers, pieces of the body: nothing; at its end the choice with the headers, then the body back, in pieces
    no body               headers -> an answer

The stream stays open until the engine's answer has ended; its end is the end of the request.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

import orjson
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest
from google.protobuf.message import DecodeError

from aibrix_controllers.picker import models, wire
from aibrix_controllers.picker.config import Service
from aibrix_controllers.picker.decide import Pass, Pick, Refuse, Request
from aibrix_controllers.picker.picker import Asking, Picker
from aibrix_controllers.picker.prompt import Malformed, Prompt, read, renamed

BODY_BYTES = 64 << 20
_DUPLEX = ProcessingMode.FULL_DUPLEX_STREAMED
_HINT = "envoy.lb.subset_hint"
_SUBSET = "x-gateway-destination-endpoint-subset"
_SLACK_SECONDS = 2.0
"""Envoy waits so much longer than a request is held, so that the picker's own words arrive."""
_OPENAI = {
    400: "invalid_request_error",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
}
_OPENAI |= {429: "rate_limit_error", 503: "service_unavailable"}
_ANTHROPIC = {400: "invalid_request_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large"}
_ANTHROPIC |= {429: "rate_limit_error", 503: "overloaded_error"}


class Stream:
    """One request. `send` takes messages, also after `message` has returned, until `closed`."""

    __slots__ = (
        *("_asking", "_body", "_cluster", "_done", "_duplex", "_echo", "_headers", "_picker", "_send", "_size"),
        *("_subset", "_trailers"),
    )

    def __init__(self, picker: Picker, send: Callable[[bytes], None]) -> None:
        self._picker, self._send = picker, send
        self._asking: Asking | None = None
        self._headers: dict[str, bytes] = {}
        self._body: list[bytes] = []
        self._size = 0
        self._duplex = self._echo = self._done = self._trailers = False
        self._cluster = ""
        self._subset: frozenset[str] | None = None

    def message(self, data: bytes) -> None:
        """What is not a message of ext_proc is counted and left alone: Envoy's own timeout is the answer."""
        try:
            request = ProcessingRequest.FromString(data)
        except DecodeError:
            self._picker.log("broken_message", bytes=len(data))
            return
        kind = request.WhichOneof("request")
        if kind == "request_headers":
            self._on_headers(request)
        elif kind == "request_body":
            self._on_body(request.request_body.body, request.request_body.end_of_stream)
        elif kind == "request_trailers":
            self._on_trailers()
        elif kind == "response_headers":
            self._send(wire.RESPONSE_HEADERS_CONTINUE)
        elif kind == "response_body":
            self._on_response(request.response_body.body, request.response_body.end_of_stream)
        elif kind == "response_trailers":
            self._send(wire.RESPONSE_TRAILERS_CONTINUE)

    def half_closed(self) -> None:
        """Envoy says no more; the transport ends the call."""

    def closed(self) -> None:
        self._done = True
        self._body.clear()
        if self._asking:
            self._picker.close(self._asking)
            self._asking = None

    # what comes

    def _on_headers(self, request: ProcessingRequest) -> None:
        headers = {one.key: one.raw_value or one.value.encode() for one in request.request_headers.headers.headers}
        self._headers = headers
        self._place(request)
        if request.HasField("protocol_config"):
            self._duplex = request.protocol_config.request_body_mode == _DUPLEX
            self._echo = request.protocol_config.response_body_mode == _DUPLEX
        ends = request.request_headers.end_of_stream
        path = self._text(":path").partition("?")[0]
        if self._text(":method") == "GET" and (path == models.PATH or path.startswith(models.PATH + "/")):
            self._list(path)
        elif ends and self._text(":method") != "POST":
            self._pass()
        elif ends:
            self._refuse(Refuse(400, "no_body", "the request has no body"))
        elif not self._duplex:
            self._send(wire.HEADERS_CONTINUE)

    def _place(self, request: ProcessingRequest) -> None:
        """Envoy's cluster, and which endpoints it allows."""
        for attributes in request.attributes.values():
            if "xds.cluster_name" in attributes.fields:
                self._cluster = attributes.fields["xds.cluster_name"].string_value
        metadata = request.metadata_context.filter_metadata
        if metadata and _HINT in metadata and _SUBSET in metadata[_HINT].fields:
            hint = metadata[_HINT].fields[_SUBSET]
            given = [one.string_value for one in hint.list_value.values] or hint.string_value.split(",")
            self._subset = frozenset(one.strip() for one in given if one.strip())

    def _on_body(self, body: bytes, ends: bool) -> None:
        if self._done or self._asking:
            self._send(wire.BODY_CONTINUE)
        elif not self._duplex:
            self._whole(body)
        else:
            self._body.append(body)
            self._size += len(body)
            if self._size > BODY_BYTES:
                self._refuse(Refuse(413, "too_large", f"the body has more than {BODY_BYTES} bytes"))
            elif ends:
                self._whole(b"".join(self._body))

    def _on_trailers(self) -> None:
        if self._duplex and not self._done and not self._asking:
            self._trailers = True
            self._whole(b"".join(self._body))
        else:
            self._send(wire.TRAILERS_CONTINUE)

    def _on_response(self, body: bytes, ends: bool) -> None:
        """A gateway that streams answers through us gets them back as they are."""
        if self._echo:
            for piece in wire.streamed(body, ends, 4):
                self._send(piece)
        else:
            self._send(wire.RESPONSE_BODY_CONTINUE)

    # what is done

    def _whole(self, body: bytes) -> None:
        picker = self._picker
        began = picker.clock.now()
        try:
            prompt = read(body)
        except Malformed as error:
            self._refuse(Refuse(400, "bad_request", str(error)))
            return
        self._body = [body]
        service = picker.config.services.get(self._service(prompt.model))
        request = Request(
            *(self._text("x-request-id"), self._cluster, self._text("x-tenant"), self._text("x-priority")),
            *(self._session(service, prompt), prompt, self._subset),
        )
        asking = Asking(request, len(body) + prompt.size, began, self._answer)
        self._asking = asking
        wait = picker.ask(asking)
        picker.metrics.decided((picker.clock.now() - began) / 1e6)
        if wait is not None and not self._duplex:  # there Envoy waits anyway
            self._send(wire.more_time(wait + _SLACK_SECONDS))

    def _service(self, model: str) -> str:
        """Whose session key counts."""
        config = self._picker.config
        names = config.clusters.get(self._cluster) or config.models.get(model)
        return names[0] if names else ""

    def _session(self, service: Service | None, prompt: Prompt) -> str:
        if service and service.session_header and (found := self._text(service.session_header)):
            return found
        if service and service.session_cookie:
            for part in self._text("cookie").split(";"):
                name, _, value = part.strip().partition("=")
                if name == service.session_cookie and value:
                    return value
        return prompt.user

    def _answer(self, result: Pick | Refuse | Pass, asking: Asking) -> None:
        if isinstance(result, Refuse):
            self._refuse(result, asking)
            return
        body = self._body[0]
        self._body, self._headers = [], {}
        if isinstance(result, Pass):
            first = wire.passed(1 if self._duplex else 3, _said(f"fallback: {result.why}"))
        else:
            changed = renamed(body, result.model) if result.model else None
            length = None if changed is None else len(changed)
            parts = (",".join(result.endpoints), _picked(result, asking))
            if not self._duplex:
                self._send(wire.picked(3, *parts, changed, length))
                return
            first, body = wire.picked(1, *parts, None, length), body if changed is None else changed
        self._send(first)
        if not self._duplex:
            return
        for piece in wire.streamed(body, not self._trailers):
            self._send(piece)
        if self._trailers:
            self._send(wire.TRAILERS_CONTINUE)

    def _list(self, path: str) -> None:
        config, tenant = self._picker.config, self._text("x-tenant")
        created = int(self._picker.clock.wall())
        name = unquote(path[len(models.PATH) + 1 :])
        body = models.single(config, tenant, name, created) if name else models.listing(config, tenant, created)
        if body is None:
            self._refuse(Refuse(404, "model_not_found", f"no model {name} here"))
            return
        self._done = True
        self._send(wire.immediate(200, {"content-type": "application/json"}, body, "picker_models", _said("models")))

    def _pass(self) -> None:
        """Nothing to choose by; Envoy's own balancing does."""
        self._done = True
        self._send(wire.HEADERS_CONTINUE)

    def _refuse(self, refuse: Refuse, asking: Asking | None = None) -> None:
        self._done = True
        self._body = []
        if asking is None:
            self._picker.metrics.counts["picker_requests_total"][(refuse.service, str(refuse.status))] += 1
        anthropic = self._text(":path").startswith("/v1/messages")
        headers = {"content-type": "application/json"}
        if refuse.retry_seconds:
            headers["retry-after"] = str(refuse.retry_seconds)
        gateway = _said(f"{refuse.code}: {refuse.message}", refuse.service)
        self._send(wire.immediate(refuse.status, headers, error(refuse, anthropic), f"picker_{refuse.code}", gateway))

    def _text(self, name: str) -> str:
        return self._headers[name].decode("utf-8", "replace") if name in self._headers else ""


def error(refuse: Refuse, anthropic: bool) -> bytes:
    """The error object of the API that was asked."""
    if anthropic:
        inner = {"type": _ANTHROPIC[refuse.status], "message": refuse.message}
        return orjson.dumps({"type": "error", "error": inner})
    kind = _OPENAI[refuse.status]
    return orjson.dumps({"error": {"message": refuse.message, "type": kind, "param": None, "code": refuse.code}})


_CONSTANTS = 20_000
_constants: dict[tuple[str, str, str, str], bytes] = {}
"""What all choices of a service by a strategy say alike."""
_reason, _degraded = wire.text("reason"), wire.text("degraded")


def _picked(pick: Pick, asking: Asking) -> bytes:
    """Dynamic metadata `gateway`: for the access log, and for response headers."""
    service, adapter, strategy = pick.fleet.config, pick.ask.adapter, pick.choice.strategy
    key = (service.name, service.model, adapter, strategy)
    constant = _constants.get(key)
    if constant is None:
        if len(_constants) >= _CONSTANTS:
            _constants.clear()
        fields = {"service": service.name, "model": service.model, "adapter": adapter, "strategy": strategy}
        constant = _constants[key] = wire.struct(fields)
    numbers = wire.numbers(asking.estimate, asking.request.prompt.size)
    found = constant + numbers + _reason(pick.reason) + _degraded(pick.degraded)
    return found + wire.field("answered_by", pick.model) if pick.model else found


def _said(reason: str, service: str = "") -> bytes:
    return wire.struct({"reason": reason, "service": service})
