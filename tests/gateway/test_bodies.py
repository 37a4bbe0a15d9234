"""Bodies: what is small, large and too large, and the shape of every refusal."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import projects, wire
from tests.gateway.echo import Echo, echoes, echoing
from tests.gateway.running import Gateway

ACME = "authorization: Bearer key-of-acme"
KB, MB = 1000, 1000_000


@pytest.fixture(scope="module", params=["picker", "Envoy alone"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    strategy = "cost" if request.param == "picker" else "least-request"
    services = [
        projects.service("chat", routing={"strategy": strategy}),
        projects.service("secret", routing={"strategy": strategy}, access=projects.access(beta=None)),
        projects.service("asleep", routing={"strategy": strategy}),  # it has no replica
    ]
    tenants = ["acme", {"name": "beta", "requestsPerMinute": 1}]
    plan = projects.plan(tmp_path_factory.mktemp("bodies"), services, tenants=tenants)
    with echoing(plan, {"chat": 1}) as gateway:
        yield gateway


@pytest.fixture
def engine(gateway: Gateway) -> Echo:
    return echoes(gateway)[0]


def body(size: int, model: str = "chat", **more: Any) -> bytes:
    """A request of about `size` bytes whose model is its last member."""
    messages = [{"role": "user", "content": "so many words " * (size // 14)}]
    return json.dumps({"messages": messages, **more, "model": model}).encode()


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
@pytest.mark.parametrize("size", [KB, 400 * KB, 3 * MB, 8 * MB])
def test_a_body_arrives_whole(gateway: Gateway, engine: Echo, size: int, chunked: bool) -> None:
    content = body(size)
    parts = iter([content[at : at + 50_000] for at in range(0, len(content), 50_000)])
    headers = {"content-type": "application/json"}
    answer = gateway.client.post("/v1/chat/completions", content=parts if chunked else content, headers=headers)
    assert answer.status_code == 200
    (seen,) = engine.seen
    assert seen.body == content


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
def test_a_body_beyond_the_limit_is_refused_and_not_kept(gateway: Gateway, engine: Echo, chunked: bool) -> None:
    content, before = body(40 * MB), resident(gateway)
    parts = [content[at : at + 1_000_000] for at in range(0, len(content), 1_000_000)]
    if chunked:
        parts = [f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts]
    head = wire.post("/v1/chat/completions", b"", ACME, length=False)
    length = "transfer-encoding: chunked" if chunked else f"content-length: {len(content)}"
    for _ in range(3):
        answer = wire.send(gateway.url, head[:-2] + f"{length}\r\n\r\n".encode(), *parts)
        assert answer.status in (413, 0)  # 0: the refusal was lost because the sender did not listen while it sent
    assert gateway.entries()[-1]["status"] == 413 and engine.seen == []
    assert resident(gateway) - before < (80 if chunked else 20) * MB  # what is read up to the limit is kept until then


def test_a_body_in_nested_parts_is_as_good_as_a_flat_one(gateway: Gateway, engine: Echo) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(12):  # a schema of twelve levels, which is 24 in JSON
        deep = {"type": "object", "properties": {"part": deep}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": deep}}]
    content = body(KB, tools=tools, seed=18446744073709551615, temperature=1e-9)
    answer = gateway.client.post("/v1/chat/completions", content=content)
    assert answer.status_code == 200 and engine.seen[0].body == content


REFUSALS = [  # path, body, status, words of the message
    ("/v1/chat/completions", b"{}", 400, "model"),
    ("/v1/chat/completions", b"", 400, ""),
    ("/v1/chat/completions", b'{"model": "chat"', 400, ""),
    ("/v1/chat/completions", b'{"model": "nope"}', 404, "nope"),
    ("/v1/chat/completions", b'{"model": "secret"}', 403, "secret"),
    ("/v1/chat/completions", b'{"model": "asleep"}', 503, ""),
    ("/v1/embeddings", b'{"model": "nope"}', 404, "nope"),
    ("/v1/responses", b'{"model": "nope"}', 404, "nope"),
    ("/v1/completions", b'{"model": "secret"}', 403, "secret"),
    ("/v1/load_lora_adapter", b'{"model": "chat"}', 404, "path"),
    ("/v1/messages", b"{}", 400, "model"),
    ("/v1/messages", b'{"model": "chat"', 400, ""),
    ("/v1/messages", b'{"model": "nope"}', 404, "nope"),
    ("/v1/messages", b'{"model": "secret"}', 403, "secret"),
    ("/v1/messages", b'{"model": "asleep"}', 503, ""),
]
ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
IDENT = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


def well_formed(answer: wire.Answer, anthropic: bool = False) -> str:
    """The message of an error that a client library can read."""
    content = json.loads(answer.body)
    assert answer.headers["content-type"].startswith("application/json")
    assert IDENT.fullmatch(answer.headers["x-request-id"])
    if anthropic:
        assert content["type"] == "error" and content["error"]["type"] == ANTHROPIC[answer.status]
    else:
        assert set(content) == {"error"} and content["error"]["type"]
    if answer.status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    assert isinstance(content["error"]["message"], str) and content["error"]["message"]
    return str(content["error"]["message"])


@pytest.mark.parametrize(("path", "content", "status", "words"), REFUSALS)
def test_a_refusal_can_be_read_and_is_never_forwarded(
    gateway: Gateway, engine: Echo, path: str, content: bytes, status: int, words: str
) -> None:
    answer = wire.send(gateway.url, wire.post(path, content, ACME))
    assert answer.status == status
    assert words in well_formed(answer, path == "/v1/messages")
    assert engine.seen == []


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_so_can_what_the_keys_and_the_rate_refuse(gateway: Gateway, engine: Echo, path: str) -> None:
    request = wire.post(path, b'{"model": "chat"}', "x-api-key: key-of-nobody")
    well_formed(wire.send(gateway.url, request), path == "/v1/messages")
    for _ in range(2):
        answer = wire.send(gateway.url, wire.post(path, b'{"model": "chat"}', "x-api-key: key-of-beta"))
    assert answer.status == 429
    well_formed(answer, path == "/v1/messages")


def test_an_engines_own_error_keeps_its_words(gateway: Gateway, engine: Echo) -> None:
    for status in (400, 404, 422, 429, 500):
        engine.status = status
        engine.seen.clear()
        answer = gateway.client.post("/v1/chat/completions", json={"model": "chat"})
        assert answer.status_code == status and answer.json()["error"]["message"] == "the engine's own words"
        assert len(engine.seen) == 1, "an error that another replica would answer with too is not tried again"
    engine.status = 503
    engine.seen.clear()
    answer = gateway.client.post("/v1/chat/completions", json={"model": "chat"})
    assert answer.status_code == 503 and answer.json()["error"]["message"] == "the engine's own words"
    assert len(engine.seen) > 1


def test_every_answer_has_an_id_that_the_log_has_too(gateway: Gateway, engine: Echo) -> None:
    mine = "x-request-id: 11111111-1111-1111-1111-111111111111"
    answer = wire.send(gateway.url, wire.post("/v1/chat/completions", b'{"model": "chat"}', ACME, mine))
    ident = answer.headers["x-request-id"]
    assert IDENT.fullmatch(ident) and gateway.entry(ident)["status"] == 200
    assert engine.seen[0].header("x-request-id") == [ident]


def resident(gateway: Gateway) -> int:
    """Bytes of Envoy's memory."""
    rows = Path(f"/proc/{gateway.envoy.pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmRSS:"))
