"""What people and Prometheus read: /v1/models, explanations, metrics, Envoy's log on its way in."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import orjson
import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf.any_pb2 import Any as Packed
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from scenes import CHAT, POOL, SECOND, Scene, config

from aibrix_controllers.picker import explain
from aibrix_controllers.picker.accesslog import USAGE, Entries, Usage, usage
from aibrix_controllers.picker.http import Page, page_for
from aibrix_controllers.picker.metrics import Metrics

A, B = "10.0.0.1:8000", "10.0.0.2:8000"
LORA = replace(CHAT, everywhere=frozenset({"legal"}), placed=frozenset({"acme/refunds"}))
OTHER = replace(CHAT, name="code", model="coder", tenants={"internal": None})


# /v1/models


def listed(scene: Scene, path: str = "/v1/models", **headers: str) -> Any:
    talk = scene.stream()
    talk.headers(path=path, method="GET", cluster="", ends=True, **headers)
    return talk


def test_models_of_all_services() -> None:
    scene = Scene(config(LORA, OTHER))
    talk = listed(scene, x_tenant="internal")
    assert talk.status == 200
    assert talk.last.immediate_response.details == "picker_models" and talk.gateway["reason"] == "models"
    found = orjson.loads(talk.last.immediate_response.body)
    assert found["object"] == "list"
    assert [(one["id"], one["parent"], one["owned_by"]) for one in found["data"]] == [
        ("llama", None, "chat"),
        ("coder", None, "code"),
        ("acme/refunds", "llama", "chat"),
        ("legal", "llama", "chat"),
    ]
    assert found["data"][0] | {"id": "", "owned_by": ""} == {
        "id": "",
        "object": "model",
        "created": 1_700_000_100,
        "owned_by": "",
        "root": "llama",
        "parent": None,
    }


@pytest.mark.parametrize("mode", ["BUFFERED", "FULL_DUPLEX_STREAMED"])
def test_a_tenant_sees_only_what_it_may_use(mode: str) -> None:
    limited = replace(LORA, tenants={"acme": frozenset({"acme/refunds"})})
    talk = listed(Scene(config(limited, OTHER)), x_tenant="acme", mode=mode)
    found = orjson.loads(talk.last.immediate_response.body)["data"]
    assert {one["id"] for one in found} == {"llama", "acme/refunds"}


@pytest.mark.parametrize(
    ("path", "tenant", "status"),
    [
        ("/v1/models/llama", "", 200),
        ("/v1/models/acme/refunds?x=1", "", 200),
        ("/v1/models/acme%2Frefunds", "", 200),
        ("/v1/models/coder", "", 404),
        ("/v1/models/coder", "internal", 200),
        ("/v1/models/nothing", "internal", 404),
    ],
)
def test_one_model(path: str, tenant: str, status: int) -> None:
    talk = listed(Scene(config(LORA, OTHER)), path, x_tenant=tenant)
    assert talk.status == status
    if status == 404:
        assert talk.error["error"]["code"] == "model_not_found"
    else:
        assert orjson.loads(talk.last.immediate_response.body)["id"] in unquote(path)


def test_a_name_of_two_services_is_there_for_whoever_may_use_one_of_them() -> None:
    canary = replace(CHAT, name="a-canary", tenants={"tester": None})
    scene = Scene(config(canary, replace(CHAT, tenants={"acme": None})))
    found = [
        orjson.loads(listed(scene, x_tenant=one).last.immediate_response.body)["data"] for one in ("acme", "tester")
    ]
    assert [[(one["id"], one["owned_by"]) for one in row] for row in found] == [
        [("llama", "chat")],
        [("llama", "a-canary")],
    ]
    scene.add(A)
    scene.add(B, service="a-canary")
    assert scene.ask(cluster="", x_tenant="acme").endpoints == [A]
    assert scene.ask(cluster="", x_tenant="tester").endpoints == [B]
    assert scene.ask(cluster="", x_tenant="nobody").status == 403


# explain


def explained(scene: Scene, request: str = "r1") -> str:
    return scene.picker.ring.text(request, 1_700_000_000 + scene.now / 1e6) or ""


def test_a_decision_is_explained_with_what_was_known_then() -> None:
    scene = Scene(config(replace(CHAT, strategy="cost")))
    scene.add(A, B)
    scene.report(B, running=3)
    scene.ask(x_request_id="r1", x_tenant="acme", x_priority="high")
    scene.now += 7 * SECOND
    for _ in range(9):
        scene.ask()
    scene.report(A, running=40)
    text = explained(scene)
    assert "r1   2023-11-14 22:15:00.000 UTC, 7 s ago" in text
    assert "llama, tenant acme" in text and "high" in text and "3 tokens by its bytes" in text
    assert re.search(rf"^answer +{A}, then {B}$", text, re.M) and f"{A} by cost: " in text
    head, first, second = text.split("\n\n")[1].rstrip().split("\n")
    assert head.split()[0] == "replica" and "score cost" in head
    assert first.split()[:4] == [">", A, "0", "0"] and second.split()[:3] == [B, "0", "3"]
    assert max(map(len, text.split("\n"))) < 160


def test_the_fallbacks_table_is_the_one_that_decided() -> None:
    scene = Scene(config(replace(CHAT, strategy="least-kv-cache")))
    scene.add(A)
    scene.now += 6 * SECOND
    scene.ask(x_request_id="r1")
    assert "score least-request" in explained(scene) and "no report of" in explained(scene)


def test_adapters_are_explained_as_they_were() -> None:
    scene = Scene(config(replace(LORA, strategy="lora-affinity")))
    scene.add(A, B, models={"llama", "legal", "acme/refunds"})
    scene.ask("legal")
    scene.ask("legal", x_request_id="r1")
    for _ in range(5):
        scene.ask("acme/refunds")
    rows = [line.split() for line in explained(scene).split("\n\n")[1].rstrip().split("\n")[1:]]
    scores = {row[-10 if row[0] == ">" else 0]: float(row[-2]) for row in rows}
    assert min(scores.values()) < 1e6 < max(scores.values())


def test_many_replicas_are_explained_in_part() -> None:
    scene = Scene()
    scene.add(*(f"10.0.0.{number}:8000" for number in range(40)))
    scene.ask(x_request_id="r1")
    text = explained(scene)
    assert f"{explain.SHOWN} of 40 replicas" in text and text.count(":8000  ") == explain.SHOWN


def test_refusals_and_holds_are_explained() -> None:
    scene = Scene(config(replace(CHAT, hold=None)))
    scene.ask(x_request_id="r1")
    assert "503 no_replica" in explained(scene) and "no replica of chat is ready" in explained(scene)
    assert explained(scene, "other") == ""


def test_the_ring_is_bounded_and_keeps_the_newest() -> None:
    scene = Scene()
    scene.add(A)
    for number in range(explain.KEPT + 10):
        scene.ask(x_request_id=f"r{number}").stream.closed()
    assert explained(scene, "r9") == "" and explained(scene, "r10") != ""
    scene.ask(x_request_id="r11")
    scene.ask(x_request_id="x")
    assert explained(scene, "r11") != "", "an id that comes again is kept as the newer one"
    assert len(scene.picker.ring._entries) <= explain.KEPT


# metrics


def test_metrics_are_prometheus_text() -> None:
    scene = Scene(config(replace(CHAT, priority=("high", "low"))))
    scene.add(A)
    scene.ask()
    scene.ask(x_priority="low")
    scene.ask(model='a"b\\c\n', cluster="")
    scene.metrics.counts["picker_events_total"][('odd"\\\n',)] += 1
    gauge = ("picker_peers", "Others.", {(): 2.0})
    families = {one.name: one for one in text_string_to_metric_families(scene.metrics.text([gauge]))}
    requests = {tuple(one.labels.values()): one.value for one in families["picker_requests"].samples}
    assert requests == {("chat", "picked"): 2, ("", "404"): 1}
    assert families["picker_events"].samples[0].labels == {"event": 'odd"\\\n'}
    buckets = [one for one in families["picker_decision_seconds"].samples if one.name.endswith("_bucket")]
    assert [one.value for one in buckets] == sorted(one.value for one in buckets)
    assert buckets[-1].labels == {"le": "+Inf"} and buckets[-1].value == 3
    assert families["picker_peers"].samples[0].value == 2


def test_large_counts_are_exact() -> None:
    metrics = Metrics()
    metrics.counts["picker_prompt_tokens_total"][("chat",)] = 123_456_789_012
    assert 'picker_prompt_tokens_total{service="chat"} 123456789012' in metrics.text([])


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /there?x=1 HTTP/1.1\r\n", 200),
        (b"GET /th%65re HTTP/1.1\r\n", 200),
        (b"GET /else HTTP/1.1\r\n", 404),
        (b"POST /there HTTP/1.1\r\n", 405),
        (b"\x16\x03\x01\r\n", 400),
        (b"", 400),
    ],
)
def test_request_lines(line: bytes, status: int) -> None:
    assert page_for(line, lambda path: Page(200 if path == "/there" else 404, b"")).status == status


# Envoy's log


def entry(message: Any, *, tenant: str = "acme", used: bytes | None, code: int = 200, **gateway: Any) -> None:
    one = message.http_logs.log_entry.add()
    one.common_properties.custom_tags["tenant"] = tenant
    one.common_properties.metadata.filter_metadata["gateway"].update(gateway)
    one.response.response_code.value = code
    if used is not None:
        packed = Packed(type_url="type.googleapis.com/envoy.data.ai.v3.TokenUsage", value=used)
        one.common_properties.metadata.typed_filter_metadata[USAGE].CopyFrom(packed)


SEEN = b'\010\001\022\005llama\032\002\010\n"\002\010\005*\002\010\017B\002\010\017H\001'  # as Envoy 1.40 sent it


def told(scene: Scene, *entries: dict[str, Any]) -> None:
    message = StreamAccessLogsMessage()
    for one in entries:
        entry(message, **one)
    Entries(scene.picker, lambda: None).message(message.SerializeToString())


def test_usage_corrects_the_budget_and_the_estimates() -> None:
    scene = Scene(config(budgets={"acme": 1000}), sharing=True)
    scene.add(A)
    scene.ask(x_tenant="acme")
    scene.state.outbox.clear()
    told(scene, {"used": SEEN, "service": "chat", "estimate": 203, "prompt_bytes": 50})
    assert scene.state.budget_wait("acme", 985, scene.now) == 0, "15 were used, not 203"
    assert scene.state.budget_wait("acme", 986, scene.now) > 0
    assert [type(one).__name__ for one in scene.state.outbox] == ["Spent", "Learnt"]
    assert scene.count("picker_tokens_total", "chat", "acme", "input") == 10
    assert scene.count("picker_tokens_total", "chat", "acme", "output") == 5
    assert scene.state.fleets["chat"].bytes_per_token == pytest.approx(4 + 1 / 64)


@pytest.mark.parametrize(("code", "left"), [(200, 797), (0, 797), (500, 1000), (400, 1000)])
def test_without_usage_the_estimate_stands_unless_nothing_was_computed(code: int, left: int) -> None:
    scene = Scene(config(budgets={"acme": 1000}))
    scene.add(A)
    scene.ask(x_tenant="acme")
    told(scene, {"used": None, "code": code, "service": "chat", "estimate": 203})
    assert scene.state.budget_wait("acme", left, scene.now) == 0
    assert left == 1000 or scene.state.budget_wait("acme", left + 1, scene.now) > 0


def test_tenants_and_services_that_the_config_does_not_name_are_no_labels() -> None:
    scene = Scene(config(budgets={"acme": 1000}))
    told(
        scene,
        {"used": SEEN, "service": "chat", "tenant": "stranger"},
        {"used": SEEN, "service": "chat", "tenant": ""},
        {"used": SEEN, "service": "made-up"},
    )
    labels = set(scene.metrics.counts["picker_tokens_total"])
    assert {one[:2] for one in labels} == {("chat", "other"), ("chat", "")}


@given(st.binary(max_size=60))
def test_any_bytes_as_usage_are_survived(data: bytes) -> None:
    found = usage(data)
    assert found is None or (found.input >= 0 and found.output >= 0)


def test_usage_is_read_from_the_wire() -> None:
    assert usage(SEEN) == Usage(10, 5)
    assert usage(b"\x1a\x04\x08\x80\x80\x01") == Usage(16384, 0)
    assert usage(b"\x1a\x00") == Usage(0, 0), "a zero is not written"
    assert usage(b"") is None and usage(b"\x1a\x02\x08") is None and usage(b"\x0d1234") is None


@given(st.binary(max_size=200))
def test_any_bytes_as_a_log_are_survived(data: bytes) -> None:
    Entries(Scene().picker, lambda: None).message(data)


def test_pool_without_a_profile_is_explained() -> None:
    scene = Scene(config(replace(CHAT, pools={"h100": replace(POOL, profile=None)})))
    scene.add(A)
    scene.ask(x_request_id="r1")
    assert "score least-request" in explained(scene)
