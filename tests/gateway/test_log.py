"""The access log and the headers of answers: what somebody who looks for one request at night finds."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from aibrix_compile.backends.gateway.listeners import LOG
from aibrix_compile.simulate import formats
from tests.gateway import projects
from tests.gateway.echo import echoes, echoing
from tests.gateway.running import Gateway, running

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BODY = {"model": "chat", "messages": [{"role": "user", "content": "hello there"}], "max_tokens": 5}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    services = [projects.service("chat", routing={"strategy": "cost"}), projects.service("alone")]
    plan = projects.plan(tmp_path_factory.mktemp("log"), services, tenants=["acme"])
    with running(plan, {"chat": 1, "alone": 1}, speed=50) as gateway:
        yield gateway


def logged(gateway: Gateway, body: object, path: str = "/v1/chat/completions", **headers: str) -> dict[str, Any]:
    answer = gateway.client.post(path, json=body, headers=headers)
    return gateway.entry(answer.headers["x-request-id"]) | {"answer": answer}


def test_a_line_tells_who_asked_for_what_where_it_went_and_why(gateway: Gateway) -> None:
    (engine,) = gateway.of("chat")
    row = logged(gateway, BODY, traceparent=TRACE)
    answer = row.pop("answer")
    assert isinstance(answer, httpx.Response)
    assert set(row) >= set(LOG)
    told = {"tenant": "acme", "method": "POST", "path": "/v1/chat/completions", "status": 200, "model": "chat"}
    told |= {"cluster": "chat", "endpoint": engine.address, "picked": engine.address, "attempts": 1, "trace": TRACE}
    told |= {"strategy": "cost", "details": "via_upstream", "flags": "-"}
    assert {name: row[name] for name in told} == told
    usage = answer.json()["usage"]
    assert int(str(row["tokens_in"])) == usage["prompt_tokens"] and int(str(row["tokens_out"])) == 5
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(row["time"]))
    assert row["reason"] == answer.headers["x-gateway-reason"] and "cost" in str(row["reason"])
    for name in ("ms_total", "ms_first_byte", "ms_pick", "ms_stream"):
        assert isinstance(row[name], int) and row[name] >= 0
    assert answer.headers["x-gateway-endpoint"] == engine.address
    assert (answer.headers["x-gateway-service"], answer.headers["x-gateway-strategy"]) == ("chat", "cost")


def test_envoy_alone_says_so(gateway: Gateway) -> None:
    row = logged(gateway, BODY | {"model": "alone"})
    assert (row["strategy"], row["reason"], row["picked"]) == ("least-request", "Envoy alone", None)


def test_a_stream_s_tokens_are_counted_where_its_client_asks_for_usage(gateway: Gateway) -> None:
    row = logged(gateway, BODY | {"stream": True, "stream_options": {"include_usage": True}})
    assert int(str(row["tokens_out"])) == 5
    assert logged(gateway, BODY | {"stream": True})["tokens_out"] is None


def test_a_refusal_is_logged_with_its_reason(gateway: Gateway) -> None:
    row = logged(gateway, BODY | {"model": "nope"})
    assert (row["status"], row["reason"], row["model"], row["endpoint"]) == (404, "model_not_found", "nope", None)


def test_every_line_is_json_whatever_clients_send(gateway: Gateway) -> None:
    before = len(gateway.entries())
    for name in ('"', "\\", "\n", "\x7f", "é", "\u2028", "x" * 3000, '","status":200,"x":"'):
        logged(gateway, BODY | {"model": name}, **{"user-agent": 'a"b\\c', "traceparent": 'x"y'})
    lines = [line for line in (gateway.folder / "envoy.out").read_text().splitlines() if line]
    rows = [json.loads(line) for line in lines[before:]]
    assert len(rows) == 8 and {row["status"] for row in rows} <= {400, 404}
    assert all(set(row) == set(rows[0]) for row in rows)


def test_the_simulator_reads_the_log_as_a_trace(gateway: Gateway) -> None:
    for tokens in (3, 4):
        logged(gateway, BODY | {"max_tokens": tokens})
    trace = formats.read(gateway.folder / "envoy.out", model="chat")
    requests = list(trace)
    assert [one.output for one in requests][-2:] == [3, 4] and all(one.input > 0 for one in requests)


def test_headers_can_be_switched_off(tmp_path_factory: pytest.TempPathFactory) -> None:
    plan = projects.plan(tmp_path_factory.mktemp("quiet"), [projects.service("chat")], headers=False)
    with echoing(plan, {"chat": 1}) as gateway:
        answer = gateway.client.post(
            "/v1/chat/completions", json=BODY, headers={"traceparent": TRACE, "tracestate": "a=b"}
        )
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith(("x-gateway", "x-envoy"))]
        assert gateway.entry(answer.headers["x-request-id"])["endpoint"] == gateway.engines[0].address
        (seen,) = gateway.engines[0].seen  # type: ignore[attr-defined]
        assert (seen.header("traceparent"), seen.header("tracestate")) == ([TRACE], ["a=b"])
        assert echoes(gateway)


def test_who_is_answered_by_another_model_is_told_even_then(tmp_path_factory: pytest.TempPathFactory) -> None:
    chat = projects.service(
        "chat", routing={"strategy": "cost"}, adapters=projects.adapters(placed=("gone",), whenMissing="base")
    )
    plan = projects.plan(tmp_path_factory.mktemp("base"), [chat], headers=False)
    with echoing(plan, {"chat": 1}) as gateway:
        answer = gateway.client.post("/v1/chat/completions", json=BODY | {"model": "gone"})
        (engine,) = gateway.engines
        assert answer.status_code == 200 and answer.headers["x-gateway-answered-by"] == "chat"
        assert json.loads(engine.seen[0].body)["model"] == "chat"  # type: ignore[attr-defined]
        own = gateway.client.post("/v1/chat/completions", json=BODY)
        assert not [name for name in own.headers if name.startswith("x-gateway")]
