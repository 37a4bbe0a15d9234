"""The mock as a client and a proxy see it: a real process on a socket."""

import asyncio
import json
import re
import socket
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mocks import Make, Mock, events

RUNNING, WAITING, USAGE = "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"


def test_a_completion(shared: Mock) -> None:
    answer = shared.complete("The quick brown fox", max_tokens=5).json()
    assert answer["model"] == "base" and answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "length" and len(choice["text"]) == 20
    assert answer["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 5,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert shared.complete("The quick brown fox", max_tokens=5).json()["choices"] == answer["choices"]
    assert shared.complete("The quick brown fix", max_tokens=5).json()["choices"] != answer["choices"]
    assert len(shared.complete("x", max_tokens=None).json()["choices"][0]["text"]) == 16 * 4  # OpenAI's default


def test_a_chat(shared: Mock) -> None:
    answer = shared.chat("Hello there", max_completion_tokens=3).json()
    assert answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-")
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] == 3
    drawn = shared.chat("Hello there", max_tokens=None).json()
    assert drawn["choices"][0]["finish_reason"] == "stop" and 64 <= drawn["usage"]["completion_tokens"] <= 512
    parts = [{"type": "text", "text": "Hello there"}]
    same = shared.http.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": parts}], "max_tokens": 3}
    )
    assert same.json()["choices"] == answer["choices"]


@pytest.mark.parametrize("kind", ["complete", "chat"])
def test_a_stream_is_the_same_answer_in_pieces(shared: Mock, kind: str) -> None:
    ask = getattr(shared, kind)
    whole = ask("tell me", max_tokens=30).json()
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = ask("tell me", max_tokens=30, stream=True, stream_options=options)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, last = events(answer.text)
    if kind == "chat":
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(c["choices"][0]["delta"]["content"] for c in chunks)
        assert text == whole["choices"][0]["message"]["content"]
    else:
        assert "".join(c["choices"][0]["text"] for c in chunks) == whole["choices"][0]["text"]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
    counts = [c["usage"]["completion_tokens"] for c in chunks]
    assert counts == sorted(counts) and counts[-1] == 30
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 30
    assert last["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
    plain = events(ask("tell me", max_tokens=2, stream=True).text)
    assert all("usage" not in chunk for chunk in plain) and plain[-1]["system_fingerprint"]


def test_headers_leave_before_the_prompt_is_read(start: Make) -> None:
    mock = start(speed=0.05)  # a step takes a fifth of a second and more
    begin = time.monotonic()
    with mock.http.stream(
        "POST", "/v1/completions", json={"prompt": "x" * 4000, "max_tokens": 1, "stream": True}
    ) as answer:
        headers = time.monotonic() - begin
        body = next(answer.iter_bytes())
        first = time.monotonic() - begin
    assert answer.status_code == 200 and body and first > headers + 0.2
    begin = time.monotonic()
    with mock.http.stream("POST", "/v1/completions", json={"prompt": "x" * 4000, "max_tokens": 1}) as whole:
        assert time.monotonic() - begin > 0.2 and whole.status_code == 200


def test_stops(shared: Mock) -> None:
    text = shared.complete("tell me", max_tokens=60).json()["choices"][0]["text"]
    stop = text[101:106]
    at = text.index(stop)
    for streamed in (False, True):
        answer = shared.complete("tell me", max_tokens=60, stop=[stop, "never"], stream=streamed)
        chunks = events(answer.text) if streamed else [answer.json()]
        assert "".join(c["choices"][0]["text"] for c in chunks) == text[:at]
        last = chunks[-1]["choices"][0]
        assert (last["finish_reason"], last["stop_reason"]) == ("stop", stop)
    used = shared.complete("tell me", max_tokens=60, stop=stop).json()["usage"]["completion_tokens"]
    assert used == -(-(at + 5) // 4)
    later = shared.complete("tell me", max_tokens=60, stop=text[0:3], min_tokens=20).json()
    assert later["usage"]["completion_tokens"] >= 20


def test_what_is_cached_is_told(shared: Mock) -> None:
    prompt = "cached " * 100
    first, second = (shared.complete(prompt).json()["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] == (second["prompt_tokens"] - 1) // 16 * 16


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown model": ({"model": "other"}, 404, "The model `other` does not exist. Valid aliases: base."),
    "n": ({"n": 2}, 400, "n must be 1"),
    "max_tokens": ({"max_tokens": 5000}, 400, "max_tokens=5000 cannot be greater than max_model_len=2048."),
    "no tokens": ({"max_tokens": 0}, 400, "max_tokens must be at least 1, got 0."),
    "a long prompt": (
        {"prompt": "x" * 9000},
        400,
        "maximum context length is 2048 tokens. However, your prompt contains 2250",
    ),
    "no room": ({"prompt": "x" * 8192}, 400, "max_tokens must be at least 1, got 0."),
    "min_tokens": ({"min_tokens": 9}, 400, "min_tokens must be less than or equal to max_tokens=4, got 9."),
    "no prompt": ({"prompt": None}, 400, "Either prompt or prompt_embeds must be provided"),
    "prompt of a kind": ({"prompt": {"a": 1}}, 400, "valid string"),
    "two prompts": ({"prompt": ["a", "b"]}, 400, "one prompt"),
    "token ids": ({"prompt": [-1]}, 400, "32 bits"),
    "stream_options": ({"stream_options": {"include_usage": True}}, 400, "Stream options can only be defined"),
    "temperature": ({"temperature": 3}, 400, "temperature must be in [0, 2], got 3."),
    "stop": ({"stop": [1]}, 400, "valid string"),
    "unknown model, long prompt": ({"model": "other", "prompt": "x" * 9000}, 404, "does not exist"),
    "a number as text": ({"max_tokens": "4"}, 400, "valid integer"),
}


@pytest.mark.parametrize(
    ("name", "stream"), [(n, s) for n in BAD for s in (False, True) if (n, s) != ("stream_options", True)]
)
def test_bad_bodies(shared: Mock, name: str, stream: bool) -> None:
    fields, status, message = BAD[name]
    answer = shared.complete(stream=stream, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, status) and message in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("path", "body", "kind", "status"),
    [
        ("/v1/completions", b"{", "application/json", 400),
        ("/v1/completions", b"[1]", "application/json", 400),
        ("/v1/completions", b"{}", "text/plain", 400),
        ("/v1/chat/completions", b'{"messages": []}', "application/json", 400),
        ("/v1/chat/completions", b'{"messages": [{"content": "x"}]}', "application/json", 400),
        ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": 5}]}', "application/json", 400),
        ("/v1/chat/completions", b"[" * 100_000, "application/json", 400),
        ("/v1/embeddings", b'{"input": "x"}', "application/json", 404),
        ("/nothing", b"", "text/plain", 404),
        ("/health", b"", "text/plain", 405),
        ("/v1/models", b"", "text/plain", 405),
        ("/mock/fault", b'{"kind": "unheard"}', "application/json", 400),
        ("/mock/fault", b'{"kind": "kv", "value": 2}', "application/json", 400),
    ],
)
def test_bad_requests(shared: Mock, path: str, body: bytes, kind: str, status: int) -> None:
    answer = shared.http.post(path, content=body, headers={"content-type": kind})
    assert answer.status_code == status and answer.json()["error"]["code"] == status


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = "model prompt messages role content max_tokens min_tokens n stop stream stream_options temperature lora_name lora_path"
BODIES = st.dictionaries(st.sampled_from(FIELDS.split()), VALUES, max_size=6)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BODIES, st.sampled_from(["completions", "chat/completions", "load_lora_adapter", "unload_lora_adapter"]))
def test_no_body_breaks_it(shared: Mock, body: dict[str, Any], path: str) -> None:
    whole = {"prompt": "x", "messages": [{"role": "user", "content": body}, {"role": "\ud800"}], "max_tokens": 2} | body
    for sent in (body, whole):
        if isinstance(sent.get("max_tokens", 2), int) and sent.get("max_tokens", 2) > 50:
            continue
        data = json.dumps(sent).encode()
        answer = shared.http.post(f"/v1/{path}", content=data, headers={"content-type": "application/json"})
        assert answer.status_code in (200, 400, 404) or "LoRA is not enabled" in answer.text
    assert shared.process.poll() is None


def test_prompt_and_answer_are_shortened_to_the_context(shared: Mock) -> None:
    answer = shared.complete("x" * 8000, max_tokens=2000).json()  # 2000 tokens of 2048: vLLM grants the rest
    assert answer["usage"]["completion_tokens"] == 48 and answer["choices"][0]["finish_reason"] == "length"


def test_small_pages(shared: Mock) -> None:
    assert shared.http.get("/version").json() == {"version": "0.32.0"}
    assert shared.http.get("/ping").status_code == shared.http.post("/ping").status_code == 200
    (card,) = shared.http.get("/v1/models").json()["data"]
    assert (card["id"], card["root"], card["parent"], card["max_model_len"]) == ("base", "org/base", None, 2048)
    tokens = shared.http.post("/tokenize", json={"prompt": "abcdefgh"}).json()
    assert tokens["count"] == 2 and tokens["tokens"] == [
        int.from_bytes(b"abcd", "little"),
        int.from_bytes(b"efgh", "little"),
    ]
    by_ids = shared.complete(tokens["tokens"]).json()["choices"]
    assert by_ids == shared.complete("abcdefgh").json()["choices"]
    assert shared.http.get("/load").json() == {"server_load": 0}
    assert shared.http.get("/v1/completions").status_code == 405


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(start: Make, stream: bool) -> None:
    mock = start("--max-num-seqs=1", speed=1)
    body = json.dumps({"prompt": "x" * 4000, "max_tokens": 4000, "ignore_eos": True, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    clients = []
    for _ in range(2):  # one runs, one waits
        client = socket.create_connection(("127.0.0.1", mock.port))
        client.sendall(head.encode() + body)
        clients.append(client)
    mock.until(WAITING, 1)
    assert mock.metric(RUNNING) == 1 and mock.metric(USAGE) > 0
    assert mock.metric("vllm:num_requests_waiting_by_reason", reason="capacity") == 1
    for client in clients:
        client.close()
    mock.until(RUNNING, 0, 1)
    mock.until(WAITING, 0, 1)
    assert mock.metric(USAGE) == 0
    assert mock.metric("vllm:request_success_total", finished_reason="abort") == 2
    assert mock.complete().status_code == 200


def test_the_times_are_the_profile_s(start: Make) -> None:
    mock = start(speed=1)
    begin = time.monotonic()
    answer = events(mock.complete("x" * 40, max_tokens=60, stream=True).text)
    taken = time.monotonic() - begin
    # 60 steps of 9.25 + 2 ms and little more
    assert 0.67 < taken < 5 and answer
    assert 0.0112 < mock.metric("vllm:time_to_first_token_seconds_sum") < 1  # and what a busy machine adds to it
    assert mock.metric("vllm:inter_token_latency_seconds_sum") == pytest.approx(59 * 0.01127, rel=0.02)


def test_many_streams_at_once(start: Make) -> None:
    mock = start(speed=10)
    body = json.dumps({"prompt": "hello", "max_tokens": 100, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"

    async def one() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
        writer.write(head.encode() + body)
        answer = (await reader.read()).decode()
        writer.close()
        assert answer.endswith("data: [DONE]\n\n\r\n0\r\n\r\n")
        return sum(len(text) for text in re.findall(r'"text":"([^"]*)"', answer))

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*(one() for _ in range(256)))

    assert asyncio.run(all_of_them()) == [400] * 256
    assert mock.metric("vllm:generation_tokens_total") == 25_600


def test_queue_limits(start: Make) -> None:
    mock = start("--max-num-queued-reqs=1", speed=1)
    with mock.http.stream(
        "POST", "/v1/completions", json={"prompt": "x", "max_tokens": 2000, "stream": True}
    ) as answer:
        pieces = answer.iter_bytes()
        next(pieces)
        full = mock.complete()
        assert full.status_code == 503 and full.json()["error"]["type"] == "Service Unavailable"
        assert mock.metric("vllm:admission_rejections_total", reason="max_num_queued_reqs") == 1


def test_request_ids(start: Make) -> None:
    mock = start("--enable-request-id-headers")
    answer = mock.http.post("/v1/completions", json={"prompt": "x"}, headers={"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == "mine" and answer.json()["id"] == "cmpl-mine"
    assert len(mock.http.get("/health").headers["x-request-id"]) == 32


def test_request_ids_are_not_echoed_unless_asked_for(shared: Mock) -> None:
    answer = shared.http.post("/v1/completions", json={"prompt": "x"}, headers={"x-request-id": "mine"})
    assert "x-request-id" not in answer.headers and answer.json()["id"] == "cmpl-mine"
