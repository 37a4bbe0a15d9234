"""Who is asked: candidates, adapters, spill, tenants, a function of the user's, and what is said when it was second best."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from scenes import CHAT, POOL, SECOND, Scene, config

A, B, C = "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"
LORA = replace(CHAT, everywhere=frozenset({"legal"}), placed=frozenset({"refunds"}))


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"ready": False}, [B]),
        ({"draining": True}, [B]),
    ],
)
def test_who_is_not_ready_or_drains_is_not_named(change: dict[str, bool], left: list[str]) -> None:
    scene = Scene()
    scene.add(A, B)
    scene.add(A, **change)
    assert scene.ask().endpoints == left
    scene.add(A)
    assert sorted(scene.ask().endpoints) == [A, B]


def test_a_hung_engine_is_not_named_until_it_answers() -> None:
    scene = Scene()
    scene.add(A, B)
    scene.state.failed("chat", A, hung=True, now=scene.now)
    assert scene.ask().endpoints == [B]
    scene.report(A)
    assert A in scene.ask().endpoints


def test_all_hung_are_used_and_it_is_said() -> None:
    """It may be the picker that reaches nobody."""
    scene = Scene()
    scene.add(A, B)
    for one in (A, B):
        scene.state.failed("chat", one, hung=True, now=scene.now)
    talk = scene.ask()
    assert sorted(talk.endpoints) == [A, B]
    assert talk.gateway["degraded"] == "no replica answers the picker: all that may be well are used"
    assert scene.count("picker_degraded_total", "chat", "scrapes") == 1


def test_an_engine_that_refuses_is_never_guessed() -> None:
    scene = Scene()
    scene.add(A, B)
    scene.state.failed("chat", A, hung=True, gone=True, now=scene.now)
    scene.state.failed("chat", B, hung=True, now=scene.now)
    assert scene.ask().endpoints == [B]
    scene.state.failed("chat", B, hung=True, gone=True, now=scene.now)
    assert scene.ask().status == 503


def test_replicas_that_kubernetes_gave_up_and_that_answer_are_used() -> None:
    """A lost API server makes all of them unready at once; one that was never ready has not loaded its weights."""
    scene = Scene()
    scene.add(A, B)
    scene.state.replica("chat", A, "h100", ready=False, draining=False, incarnation="1", now=scene.now)
    assert scene.ask().endpoints == [B]
    scene.state.replica("chat", B, "h100", ready=False, draining=False, incarnation="new", now=scene.now)
    talk = scene.ask()
    assert talk.endpoints == [A]
    assert "Kubernetes calls no replica ready" in talk.gateway["degraded"]
    scene.state.failed("chat", A, hung=True, now=scene.now)
    assert scene.ask().status == 503


def test_metrics_that_are_gone_leave_the_engine_in_use_and_are_said() -> None:
    scene = Scene()
    scene.add(A, B)
    scene.report(A, running=9)
    assert scene.ask().endpoints[0] == B
    scene.state.failed("chat", A, hung=False, now=scene.now)
    talk = scene.ask()
    assert talk.endpoints[0] == A, "what it reported last counts no more"
    assert talk.gateway["degraded"] == f"no metrics of {A}"
    assert talk.gateway["reason"] == f"{A} by least-request: 0 (no metrics of {A})"
    assert scene.count("picker_degraded_total", "chat", "metrics") == 1
    scene.report(A)
    assert scene.ask().gateway["degraded"] == ""


def test_a_full_kv_cache_gets_nothing_while_another_has_room() -> None:
    scene = Scene()
    scene.add(A, B)
    scene.report(A, kv_share=0.95)
    assert [scene.ask().endpoints for _ in range(2)] == [[B], [B]]
    scene.report(B, kv_share=0.96)
    assert sorted(scene.ask().endpoints) == [A, B]


def test_old_reports_are_the_strategys_matter_and_are_counted() -> None:
    scene = Scene(config(replace(CHAT, strategy="least-kv-cache")))
    scene.add(A, B)
    assert scene.ask().gateway["strategy"] == "least-kv-cache"
    scene.now += 6 * SECOND
    talk = scene.ask()
    assert talk.gateway["strategy"] == "least-request" and "no report of" in talk.gateway["degraded"]
    assert scene.count("picker_degraded_total", "chat", "reports") == 1


def test_no_profile_is_counted() -> None:
    scene = Scene(config(replace(CHAT, strategy="cost", pools={"h100": replace(POOL, profile=None)})))
    scene.add(A)
    assert scene.ask().gateway["degraded"] == "no profile of an engine"
    assert scene.count("picker_degraded_total", "chat", "profile") == 1


@pytest.mark.parametrize("count", range(1, 9))
def test_endpoints_for_retries_are_others(count: int) -> None:
    for step in range(20):
        scene = Scene()
        scene.add(*(f"10.0.0.{number}:8000" for number in range(count)))
        scene.chance = step / 20
        found = scene.ask().endpoints
        assert len(found) == len(set(found)) == min(3, count)


def test_the_less_loaded_is_the_first_to_retry() -> None:
    scene = Scene()
    scene.add(A, B, C)
    scene.report(B, running=5)
    assert scene.ask().endpoints == [A, C, B]


def test_adapters() -> None:
    scene = Scene(config(LORA))
    scene.add(A, models={"llama", "legal"})
    scene.add(B, models={"llama", "legal", "refunds"})
    scene.add(C)  # nobody has asked it yet
    talk = scene.ask("refunds")
    assert talk.endpoints == [B] and talk.gateway["adapter"] == "refunds" and talk.gateway["model"] == "llama"
    assert sorted(scene.ask("legal").endpoints) == [A, B, C], "what is everywhere is there from the start"
    assert len(scene.ask("llama").endpoints) == 3
    scene.state.serves("chat", B, frozenset({"llama"}), scene.now)
    talk = scene.ask("refunds")
    assert (talk.status, talk.error["error"]["code"]) == (503, "adapter_missing")


def test_spill_goes_to_the_next_service_that_has_somebody() -> None:
    small = replace(CHAT, name="small")
    scene = Scene(config(CHAT, small, clusters={"chat.spill": ("chat", "small"), "small": ("small",)}))
    scene.add(A)
    scene.add(B, service="small")
    assert scene.ask(cluster="chat.spill").endpoints == [A]
    scene.state.gone("chat", A)
    talk = scene.ask(cluster="chat.spill")
    assert talk.endpoints == [B] and talk.gateway["service"] == "small"
    assert talk.gateway["degraded"] == "no replica of chat is ready"
    assert scene.count("picker_degraded_total", "small", "spill") == 1
    assert scene.ask(cluster="small").endpoints == [B]


@pytest.mark.parametrize(
    ("tenant", "model", "status"),
    [
        ("acme", "refunds", 0),
        ("acme", "legal", 403),
        ("acme", "llama", 0),
        ("internal", "legal", 0),
        ("who", "llama", 403),
    ],
)
def test_a_tenant_gets_only_what_is_its(tenant: str, model: str, status: int) -> None:
    """Envoy permits first; a body that Envoy reads otherwise, with two models in it, must not get past here."""
    scene = Scene(config(replace(LORA, tenants={"acme": frozenset({"refunds"}), "internal": None})))
    scene.add(A, models={"llama", "legal", "refunds"})
    talk = scene.ask(model, x_tenant=tenant)
    assert talk.status == status
    if status:
        assert talk.error["error"]["code"] == "not_permitted" and talk.error["error"]["type"] == "permission_error"


def test_the_last_model_of_a_body_counts_as_it_does_for_engines() -> None:
    scene = Scene(config(replace(LORA, tenants={"acme": frozenset({"refunds"})})))
    scene.add(A, models={"llama", "legal", "refunds"})
    talk = scene.stream()
    talk.headers(x_tenant="acme")
    talk.body(b'{"model": "refunds", "prompt": "x", "model": "legal"}')
    assert talk.status == 403


def test_everything_that_was_second_best_is_said() -> None:
    scene = Scene(config(replace(LORA, when_missing="base", strategy="custom", function="nowhere_at_all:score")))
    scene.add(A, models={"llama"})
    scene.state.failed("chat", A, hung=False, now=scene.now)
    talk = scene.ask("refunds")
    assert talk.gateway["degraded"] == (
        f"adapter refunds is missing: llama answers; nowhere_at_all:score failed; no metrics of {A}"
    )
    assert talk.gateway["answered_by"] == "llama"
    assert [scene.count("picker_degraded_total", "chat", kind) for kind in ("base", "function", "metrics")] == [1, 1, 1]


def test_prefixes_are_followed_and_counted() -> None:
    scene = Scene(config(replace(CHAT, strategy="cost")))
    scene.add(A, B, C)
    text = "word " * 2000

    def ask(salt: str = "", adapter: str = "llama") -> list[str]:
        talk = scene.stream()
        talk.headers()
        body = f'{{"model": "{adapter}", "prompt": "{text}", "cache_salt": "{salt}"}}'
        talk.body(body.encode())
        found = talk.endpoints
        talk.stream.closed()
        scene.now += 60 * SECOND
        for one in (A, B, C):
            scene.report(one)
        return found

    scene.chance = 0.5
    assert ask()[0] == B
    scene.chance = 0.0
    assert ask()[0] == B
    assert scene.count("picker_prefix_hit_tokens_total", "chat") == 9 * 256
    assert ask(salt="secret")[0] == A, "another salt shares no cache"
    scene.state.replica("chat", B, "h100", ready=True, draining=False, incarnation="2", now=scene.now)
    scene.report(B)
    ask()
    assert scene.count("picker_prefix_hit_tokens_total", "chat") == 9 * 256, "a restarted engine has nothing"


@pytest.fixture
def module() -> Any:
    found = ModuleType("acme_scores")
    sys.modules["acme_scores"] = found
    yield found
    del sys.modules["acme_scores"]


def custom(module: Any, function: Any) -> Scene:
    module.score = function
    scene = Scene(config(replace(CHAT, strategy="custom", function="acme_scores:score")))
    scene.add(A, B, C)
    return scene


def test_a_function_of_the_users_decides(module: Any) -> None:
    seen = []

    def score(request: Any, endpoints: Any, now: int) -> list[int]:
        seen.append((request.model, request.priority, request.tenant, list(request.hits), now))
        return [3, 2, 1]

    scene = custom(module, score)
    talk = scene.ask(x_priority="high", x_tenant="acme")
    assert talk.endpoints[0] == C and talk.gateway["strategy"] == "custom"
    assert seen == [("llama", "high", "acme", [0, 0, 0], scene.now)]
    assert scene.lines == []


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda *_: [1, 2], "2 scores for 3 endpoints"),
        (lambda *_: [1, float("nan"), 2], "a score is not a number"),
        (lambda *_: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda *_: None, "TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_what_it_does_wrong_costs_the_strategy_and_no_answer(module: Any, function: Any, why: str) -> None:
    scene = custom(module, function)
    for _ in range(3):
        talk = scene.ask()
    assert talk.endpoints and talk.gateway["strategy"] == "least-request"
    assert talk.gateway["degraded"] == "acme_scores:score failed"
    assert scene.count("picker_degraded_total", "chat", "function") == 3
    assert scene.lines == [("function_failed", {"service": "chat", "why": why})], "once a minute"
    scene.now += 61 * SECOND
    scene.ask()
    assert len(scene.lines) == 2


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("nowhere_at_all:score", "ModuleNotFoundError"),
        ("json:nothing", "AttributeError"),
        ("json:__doc__", "not a func"),
    ],
)
def test_a_function_that_is_not_there_is_said_at_once(place: str, why: str) -> None:
    scene = Scene(config(replace(CHAT, strategy="custom", function=place)))
    scene.add(A)
    assert scene.lines[0][0] == "function_missing" and why in scene.lines[0][1]["why"]
    assert scene.ask().gateway["degraded"] == f"{place} failed"
