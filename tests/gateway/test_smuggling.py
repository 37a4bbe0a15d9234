"""What only the gateway may say can not be said by a client: where a request goes, whose it is, which model it is for.

No picker answers here, so nothing corrects what a client would get through; the routes are those of a picker.
"""

from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from aibrix_compile.backends.gateway.gate import PATHS
from tests.gateway import projects, wire
from tests.gateway.echo import Echo, echoes, echoing
from tests.gateway.running import Gateway

ACME = "authorization: Bearer key-of-acme"
BODY = b'{"model": "chat", "messages": []}'


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    services = [
        projects.service("chat", routing={"strategy": "cost"}, access=projects.access(acme=None)),
        projects.service("secret", routing={"strategy": "cost"}, access=projects.access(beta=None)),
    ]
    plan = projects.plan(tmp_path_factory.mktemp("smuggling"), services, tenants=["acme", "beta"])
    with echoing(plan, {"chat": 2, "secret": 1}, pickers=0) as gateway:
        yield gateway


@pytest.fixture
def engines(gateway: Gateway) -> list[Echo]:
    """Two of `chat`, then one of `secret`, which tenant acme may not use."""
    return echoes(gateway)


def forged(address: str) -> list[str]:
    names = ["x-gateway-destination-endpoint", "X-Gateway-Destination-Endpoint", "envoy.lb", "envoy-lb"]
    lines = [f"{name}: {address}" for name in names]
    lines += ["x-gateway-reason: mine", "x-gateway-anything: mine", "x-gateway-: mine", "x-gateway-route: secret"]
    lines += ["x-tenant: beta", "X-TENANT: beta", "x-gateway-destination-endpoint-subset: " + address]
    lines += ["x-envoy-original-dst-host: " + address, "x-envoy-retry-on: 5xx", "x-envoy-max-retries: 9"]
    lines += ["x-envoy-upstream-rq-timeout-ms: 1", "x-envoy-force-trace: 1", "x-envoy-decorator-operation: mine"]
    lines += ["x-envoy-upstream-alt-stat-name: mine", "x-envoy-internal: true", "x-envoy-original-path: /metrics"]
    return [*lines, "x-envoy-peer-metadata: mine", "x-envoy-anything: mine"]


@pytest.mark.parametrize("path", [*PATHS, "/v1/models"])
def test_forged_headers_change_nothing_and_reach_no_engine(gateway: Gateway, engines: list[Echo], path: str) -> None:
    method = "GET" if path == "/v1/models" else "POST"
    for target in engines:
        lines = forged(target.address)
        for _ in range(10):
            answer = wire.send(gateway.url, wire.post(path, BODY, ACME, *lines, method=method))
            assert answer.status == (503 if method == "GET" else 200)
    calls = Counter(engine.address for engine in engines for _ in engine.seen)
    assert calls[engines[2].address] == 0
    if method == "POST":  # neither replica is favoured: each was named by a third of the requests
        assert sum(calls.values()) == 30 and min(calls[one.address] for one in engines[:2]) >= 4
    for seen in (seen for engine in engines for seen in engine.seen):
        assert seen.header("x-tenant") == ["acme"]
        names = {name for name, _ in seen.headers}
        assert not {name for name in names if name.startswith("x-gateway-")}
        assert {name for name in names if name.startswith("x-envoy-")} <= {"x-envoy-external-address"}
        told = {name for name, value in seen.headers if value == "mine"}
        assert not told


@pytest.mark.parametrize("line", ["x_tenant: beta", "X_Tenant: beta", "x_gateway_destination_endpoint: 127.0.0.1:1"])
def test_underscores_that_some_servers_read_as_hyphens_are_refused(
    gateway: Gateway, engines: list[Echo], line: str
) -> None:
    assert wire.send(gateway.url, wire.post("/v1/chat/completions", BODY, ACME, line)).status == 400
    assert not any(engine.seen for engine in engines)


def test_a_connection_header_does_not_take_the_tenant_away(gateway: Gateway, engines: list[Echo]) -> None:
    lines = ("connection: x-tenant, x-gateway-reason, keep-alive", "x-tenant: beta")
    assert wire.send(gateway.url, wire.post("/v1/chat/completions", BODY, ACME, *lines)).status == 200
    assert [one.header("x-tenant") for engine in engines for one in engine.seen] == [["acme"]]


def test_http_2_clients_can_not_forge_more(gateway: Gateway, engines: list[Echo]) -> None:
    headers = [("authorization", "Bearer key-of-acme"), ("x-tenant", "beta"), ("x-tenant", "acme")]
    headers += [("x-gateway-destination-endpoint", engines[2].address), ("x-envoy-anything", "mine")]
    with httpx.Client(base_url=gateway.url, http1=False, http2=True, timeout=10) as client:
        answer = client.post("/v1/chat/completions", content=BODY, headers=headers)
    assert answer.status_code == 200 and not engines[2].seen
    (seen,) = [one for engine in engines for one in engine.seen]
    assert seen.header("x-tenant") == ["acme"] and not seen.header("x-envoy-anything")


AMBIGUOUS = [
    ("transfer-encoding: chunked", "content-length: 5"),
    ("content-length: 5", "transfer-encoding: chunked"),
    ("content-length: 5", "content-length: 6"),
    ("content-length: +5",),
    ("content-length: 5, 5",),
    ("content-length: 0x5",),
    ("transfer-encoding: chunked, identity",),
    ("transfer-encoding: identity",),
    ("transfer-encoding: xchunked",),
    ("transfer-encoding: chunked", "transfer-encoding: chunked"),
    ("transfer-encoding : chunked",),
    ("content-length: 5", "x: \0"),
]


@pytest.mark.parametrize("lines", AMBIGUOUS)
def test_a_body_of_two_lengths_is_refused(gateway: Gateway, engines: list[Echo], lines: tuple[str, ...]) -> None:
    hidden = wire.post("/v1/chat/completions", b'{"model": "secret"}', ACME)
    chunk = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n"
    first = wire.post("/v1/chat/completions", chunk + hidden, ACME, *lines, length=False)
    answer = wire.send(gateway.url, first)
    assert answer.status in (400, 501) and answer.headers["connection"] == "close"
    assert b'"model"' not in answer.body  # the gate, which speaks of models, has not seen it
    assert not any(engine.seen for engine in engines)


def test_a_request_in_pieces_and_two_in_one_are_what_they_are(gateway: Gateway, engines: list[Echo]) -> None:
    whole = wire.post("/v1/chat/completions", BODY, ACME)
    assert wire.send(gateway.url, *(bytes([one]) for one in whole)).status == 200
    forbidden = wire.post("/v1/chat/completions", b'{"model": "secret"}', ACME)
    assert wire.send(gateway.url, whole + forbidden).status == 200
    gateway.entries(2)
    assert [len(engine.seen) for engine in engines][2] == 0
    assert sum(len(engine.seen) for engine in engines) == 2


NO_MODEL = "the body names no model"
TRICKS = [  # body, status, what the message says
    (b'{"model": "chat", "model": "secret"}', 400, ""),
    (b'{"model": "secret", "model": "chat"}', 400, ""),
    (b'{"model": "chat", "\\u006dodel": "secret"}', 400, ""),
    (b'{"\\u006dodel": "secret", "model": "chat"}', 400, ""),
    (b'{"\\u006dodel": "secret"}', 403, "secret"),
    (b'{"\\u006dodel": "ch\\u0061t"}', 200, ""),
    (b'{"model": "se\\u0063ret"}', 403, "secret"),
    (b'{"model": "chat", "x": {"model": "secret"}}', 200, ""),
    (b'{"x": [{"model": "chat"}]}', 400, NO_MODEL),
    (b'{"model": 3}', 400, NO_MODEL),
    (b'{"model": null}', 400, NO_MODEL),
    (b'{"model": true}', 400, NO_MODEL),
    (b'{"model": ["chat"]}', 400, NO_MODEL),
    (b'{"model": {"model": "chat"}}', 400, NO_MODEL),
    (b'{"model": ""}', 404, "there is no model `` here"),
    (b'{"Model": "chat"}', 400, NO_MODEL),
    (b'{"model ": "chat"}', 400, NO_MODEL),
    (b'{"model": "chat "}', 404, "there is no model `chat ` here"),
    (b'{"model": "Chat"}', 404, "there is no model `Chat` here"),
    (b'{"model": "chat\\u0000"}', 404, "there is no model `chat?` here"),
    (b'{"model": "chat\\nchat"}', 404, "there is no model `chat?chat` here"),
    (b'{"model": "chat\\"}, {\\"x"}', 404, "there is no model `chat?}, {?x` here"),
    (b'{"model": "ch\xc3\xa4t"}', 404, "there is no model `ch??t` here"),
    (b'{"model": "chat\x00"}', 404, "there is no model `chat?` here"),
    (b'{"model": "chat"', 400, ""),
    (b'{"model": "chat"} x', 400, ""),
    (b'{"model": "chat"}{"model": "secret"}', 400, ""),
    (b'{"model": "chat",}', 400, ""),
    (b"{'model': 'chat'}", 400, ""),
    (b'\xef\xbb\xbf{"model": "chat"}', 400, ""),
    ('{"model": "chat"}'.encode("utf-16"), 400, ""),
    (b"", 400, ""),
    (b"null", 400, ""),
    (b'[{"model": "chat"}]', 400, ""),
    (b"model=chat", 400, ""),
    (b'{"model": "' + b"x" * 100_000 + b'"}', 400, NO_MODEL),
    (b'{"model": "chat", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, ""),
    (b'{"a": ' + b'{"a":' * 100_000, 400, ""),
    (b'{"model": "chat",' + b" " * 10_000_000 + b'"a": 1}', 400, ""),
]


@pytest.mark.parametrize(("body", "status", "words"), TRICKS, ids=range(len(TRICKS)))
def test_a_body_means_one_model_or_none(
    gateway: Gateway, engines: list[Echo], body: bytes, status: int, words: str
) -> None:
    answer = wire.send(gateway.url, wire.post("/v1/chat/completions", body, ACME))
    assert answer.status == status and words.encode() in answer.body
    seen = [one for engine in engines for one in engine.seen]
    assert [one.body for one in seen] == [body] * (status == 200)
    assert not engines[2].seen


def test_a_table_of_names_is_no_pattern_and_no_code(gateway: Gateway) -> None:
    for name in (".*", "%w+", "chat-", "-", "@0", "/chat", "chat chat 0", "]==]", "model", "nil"):
        answer = gateway.client.post("/v1/chat/completions", json={"model": name})
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found", name
