"""Parts fail, and the gateway goes on and says so. What other routers do then is in `make faults`."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.gateway import projects
from tests.gateway.running import Engine, Gateway, running, wait

FALLBACK = "fallback: no picker answered"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    service = projects.service(
        "chat",
        routing={"strategy": "cost", "idleTimeout": "3s", "timeout": "60s"},
        adapters=projects.adapters(placed=("rare",), whenMissing="reject"),
        access=projects.access(acme=[], beta=None),
    )
    with running(projects.plan(tmp_path, [service], tenants=("acme", "beta")), {"chat": 3}, speed=2) as gateway:
        wait(lambda: "by cost" in reason(ask(gateway)), 10)
        yield gateway


def ask(gateway: Gateway, tokens: int = 1, model: str = "chat", tenant: str = "acme") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": tokens}
    with gateway.caller(tenant) as client:
        return client.post("/v1/chat/completions", json=body)


def reason(answer: httpx.Response) -> str:
    return answer.headers.get("x-gateway-reason", "")


def engine(gateway: Gateway, answer: httpx.Response) -> Engine:
    return next(one for one in gateway.engines if one.address == answer.headers["x-gateway-endpoint"])


def test_a_killed_picker_fails_nobody_and_rights_hold(gateway: Gateway) -> None:
    (picker,) = gateway.pickers
    with ThreadPoolExecutor(20) as pool:
        long = [pool.submit(ask, gateway, 100) for _ in range(20)]
        time.sleep(0.3)
        picker.process.kill()
        answers = [ask(gateway) for _ in range(20)] + [one.result() for one in long]
    assert {one.status_code for one in answers} == {200}
    assert reason(ask(gateway)) == FALLBACK
    placed = ask(gateway, model="rare", tenant="beta")
    assert placed.status_code == 503 and placed.headers["retry-after"] and "picker" in placed.json()["error"]["message"]
    assert ask(gateway, model="rare").status_code == 403
    picker.process.wait()
    picker.start()
    wait(lambda: "by cost" in reason(ask(gateway)), 10)


def test_a_frozen_picker_costs_a_second_and_is_left_alone_then(gateway: Gateway) -> None:
    (picker,) = gateway.pickers
    picker.process.send_signal(signal.SIGSTOP)
    try:
        first = ask(gateway)
        assert (first.status_code, reason(first)) == (200, FALLBACK)
        wait(lambda: ask(gateway).elapsed.total_seconds() < 0.5, 10)  # nobody waits for it any more
    finally:
        picker.process.send_signal(signal.SIGCONT)
    wait(lambda: "by cost" in reason(ask(gateway)), 10)


def test_what_had_not_begun_is_answered_elsewhere(gateway: Gateway) -> None:
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, gateway, 150) for _ in range(12)]
        time.sleep(0.4)
        busiest = max(gateway.engines, key=lambda one: one.metric("vllm:num_requests_running"))
        assert busiest.metric("vllm:num_requests_running") > 0
        busiest.process.kill()
        answers = [one.result() for one in asked]
    assert {one.status_code for one in answers} == {200}
    assert "2" in {one.headers["x-envoy-attempt-count"] for one in answers}


def test_a_stream_that_has_begun_breaks_where_it_can_be_seen(gateway: Gateway) -> None:
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": "chat", "messages": messages, "max_tokens": 500, "stream": True}
    with gateway.caller("acme") as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        parts = answer.iter_lines()
        next(parts)
        engine(gateway, answer).process.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            list(parts)
    entry = gateway.entry(answer.headers["x-request-id"])
    assert entry["status"] == 200 and entry["flags"] != "-" and entry["attempts"] == 1
    assert ask(gateway).status_code == 200


def test_a_hung_engine_is_avoided_and_what_it_has_ends(gateway: Gateway) -> None:
    hung = engine(gateway, ask(gateway))
    hung.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(9) as pool:
        early = [pool.submit(ask, gateway, 5) for _ in range(9)]
        time.sleep(2.0)
        fresh = [ask(gateway) for _ in range(12)]
        answers = [one.result() for one in early]
    hung.process.send_signal(signal.SIGCONT)
    assert {one.status_code for one in fresh} == {200}
    assert hung.address not in {one.headers["x-gateway-endpoint"] for one in fresh}
    assert {one.status_code for one in answers} == {200, 504}
    assert all(one.elapsed.total_seconds() < 15 for one in answers)


def test_an_idle_engine_that_hangs_is_avoided_as_well(gateway: Gateway) -> None:
    hung = engine(gateway, ask(gateway))
    hung.process.send_signal(signal.SIGSTOP)
    time.sleep(2.0)
    fresh = [ask(gateway) for _ in range(12)]
    hung.process.send_signal(signal.SIGCONT)
    assert {one.status_code for one in fresh} == {200}
    assert hung.address not in {one.headers["x-gateway-endpoint"] for one in fresh}


def test_without_metrics_it_goes_on_and_says_so(gateway: Gateway) -> None:
    for one in gateway.engines:
        one.fault("metrics_gone")
    wait(lambda: "no metrics of" in reason(ask(gateway)), 10)
    assert ask(gateway).status_code == 200
    assert gateway.pickers[0].metric("picker_degraded_total", service="chat", reason="metrics") > 0


def test_with_all_engines_dead_it_says_when_to_come_back(gateway: Gateway) -> None:
    for one in gateway.engines:
        one.process.kill()
    for _ in range(20):
        answer = ask(gateway)
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
        assert answer.elapsed.total_seconds() < 2
        time.sleep(0.2)


def test_usage_comes_back_to_the_tenant_s_budget(tmp_path: Path) -> None:
    """An answer that was much shorter than was thought does not cost what was thought."""
    tenants = [{"name": "acme", "tokensPerMinute": 600}]
    plan = projects.plan(tmp_path, [projects.service("chat")], tenants=tenants)
    with running(plan, {"chat": 1}) as gateway:
        body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        statuses = []
        for _ in range(20):  # each is thought to cost some ten tokens, and does
            statuses.append(gateway.client.post("/v1/chat/completions", json=body).status_code)
        assert set(statuses) == {200}
        spent = gateway.client.post("/v1/chat/completions", json=body | {"max_tokens": 400})
        assert spent.status_code == 200
        wait(lambda: gateway.pickers[0].metric("picker_tokens_total", tenant="acme") >= 500, 5)
        refused = [gateway.client.post("/v1/chat/completions", json=body | {"max_tokens": 100}) for _ in range(4)]
        last = refused[-1]
        assert last.status_code == 429 and int(last.headers["retry-after"]) >= 1
        assert last.json()["error"]["code"] and "tokens of this minute" in last.json()["error"]["message"]
