"""A picker without ports: its clock stands still until a test moves it, and what it says is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
from envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValue
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    HttpBody,
    HttpHeaders,
    HttpTrailers,
    ProcessingRequest,
    ProcessingResponse,
    ProtocolConfiguration,
)

from aibrix_compile.policy.profile import TABLE
from aibrix_controllers.picker.config import Config, Hold, Pool, Service, by_name
from aibrix_controllers.picker.metrics import Metrics
from aibrix_controllers.picker.picker import Clock, Picker
from aibrix_controllers.picker.protocol import Stream
from aibrix_controllers.picker.state import State

POOL = Pool(TABLE["h100/8b"], 4, 2, 16)
CHAT = Service("chat", "assistants", "chat.local", 8000, "llama", {"h100": POOL}, strategy="least-request")
HOLD = Hold(30.0, 2, 100_000)
SECOND = 1_000_000


def config(*services: Service, **more: Any) -> Config:
    """By default each service has a cluster of its name."""
    named = {one.name: one for one in services or (CHAT,)}
    models = by_name(named.values())
    more.setdefault("tenants", frozenset(more.get("budgets", ())))
    return replace(Config("v1", named, {name: (name,) for name in named}, models=models), **more)


class Scene:
    """`now` is moved by tests; `chance` as well."""

    def __init__(self, found: Config | None = None, *, dns: bool = False, sharing: bool = False) -> None:
        self.now, self.chance = 100 * SECOND, 0.0
        self.lines: list[tuple[str, dict[str, Any]]] = []
        found = found or config()
        self.state = State(found, self.now, dns=dns, sharing=sharing)
        self.metrics = Metrics()
        clock = Clock(lambda: self.now, lambda: 1_700_000_000 + self.now / 1e6, lambda: self.chance)
        self.picker = Picker(found, self.state, self.metrics, clock, self._log)

    def _log(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    def add(self, *addresses: str, service: str = "chat", models: set[str] | None = None, **more: Any) -> None:
        """Replicas that are ready and have just reported."""
        how = {"ready": True, "draining": False, "incarnation": "1"} | more
        for address in addresses:
            self.state.replica(service, address, "h100", now=self.now, **how)
            self.report(address, service=service)
            if models is not None:
                self.state.serves(service, address, frozenset(models), self.now)

    def report(self, address: str, service: str = "chat", **more: Any) -> None:
        found = {"running": 0, "waiting": 0, "kv_share": 0.1, "kv_tokens": 400_000} | more
        self.state.report(service, address, now=self.now, **found)

    def count(self, name: str, *labels: str) -> int:
        return self.metrics.counts[name][labels]

    def stream(self) -> Talk:
        return Talk(self.picker)

    def ask(self, model: str = "llama", cluster: str = "chat", **headers: str) -> Talk:
        """Headers and a small body in BUFFERED mode."""
        talk = self.stream()
        talk.headers(cluster=cluster, **headers)
        talk.body(orjson.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]}))
        return talk


class Talk:
    """One ext_proc stream: sends messages, and reads each answer with the real protobuf."""

    def __init__(self, picker: Picker) -> None:
        self.answers: list[ProcessingResponse] = []
        self.stream = Stream(picker, lambda data: self.answers.append(ProcessingResponse.FromString(data)))

    def headers(
        self,
        path: str = "/v1/chat/completions",
        method: str = "POST",
        cluster: str = "chat",
        mode: str | None = "BUFFERED",
        ends: bool = False,
        subset: str | list[str] | None = None,
        **headers: str,
    ) -> None:
        values = {":path": path, ":method": method, **{key.replace("_", "-"): value for key, value in headers.items()}}
        sent = [HeaderValue(key=key, raw_value=value.encode()) for key, value in values.items()]
        request = ProcessingRequest(
            request_headers=HttpHeaders(headers=HeaderMap(headers=sent), end_of_stream=ends),
        )
        if mode:
            request.protocol_config.CopyFrom(
                ProtocolConfiguration(request_body_mode=ProcessingMode.BodySendMode.Value(mode))
            )
        if cluster:
            fields = request.attributes["envoy.filters.http.ext_proc"].fields
            fields["xds.cluster_name"].string_value = cluster
        if subset is not None:
            hint = request.metadata_context.filter_metadata["envoy.lb.subset_hint"]
            hint.update({"x-gateway-destination-endpoint-subset": subset})
        self.send(request)

    def body(self, body: bytes, ends: bool = True) -> None:
        self.send(ProcessingRequest(request_body=HttpBody(body=body, end_of_stream=ends)))

    def trailers(self) -> None:
        self.send(ProcessingRequest(request_trailers=HttpTrailers()))

    def send(self, request: ProcessingRequest) -> None:
        self.stream.message(request.SerializeToString())

    @property
    def last(self) -> Any:
        return self.answers[-1]

    @property
    def status(self) -> int:
        """Of the immediate response; 0 where it is none."""
        return int(self.last.immediate_response.status.code)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.last.immediate_response.body)
        return found

    @property
    def endpoints(self) -> list[str]:
        """That the last answer names, in metadata and header alike."""
        lb = self.last.dynamic_metadata.fields["envoy.lb"].struct_value.fields
        named = str(lb["x-gateway-destination-endpoint"].string_value)
        kind = self.last.WhichOneof("response")
        headers = changed(getattr(self.last, kind).response.header_mutation)
        assert headers.get("x-gateway-destination-endpoint", "") == named
        return named.split(",") if named else []

    @property
    def gateway(self) -> dict[str, Any]:
        fields = self.last.dynamic_metadata.fields["gateway"].struct_value.fields
        return {key: getattr(value, value.WhichOneof("kind")) for key, value in fields.items()}


def changed(mutation: Any) -> dict[str, str]:
    """The headers that it sets; each overwrites."""
    assert all(one.append_action == 2 for one in mutation.set_headers)
    return {one.header.key: one.header.raw_value.decode() for one in mutation.set_headers}
