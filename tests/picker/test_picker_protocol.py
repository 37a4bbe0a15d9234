"""The protocol, message by message: what Envoy sends in each mode, and what it must get."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from envoy.service.ext_proc.v3.external_processor_pb2 import HttpBody, HttpHeaders, ProcessingRequest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st
from scenes import CHAT, HOLD, Scene, Talk, changed, config

from aibrix_controllers.picker.wire import CHUNK, field, more_time, numbers, text

A, B, C = "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"


@pytest.fixture
def scene() -> Scene:
    found = Scene()
    found.add(A, B, C)
    return found


def body(size: int = 5, model: str = "llama", **more: Any) -> bytes:
    return orjson.dumps({"model": model, "messages": [{"role": "user", "content": "x" * size}], **more})


def test_buffered_answers_headers_at_once_and_the_body_with_the_choice(scene: Scene) -> None:
    talk = scene.stream()
    talk.headers(x_request_id="r1")
    assert talk.last.WhichOneof("response") == "request_headers" and not talk.last.HasField("dynamic_metadata")
    talk.body(body(400))
    assert talk.last.WhichOneof("response") == "request_body"
    assert talk.endpoints == [A, B, C]
    assert not talk.last.request_body.response.HasField("body_mutation")
    assert talk.gateway == {
        "service": "chat",
        "model": "llama",
        "adapter": "",
        "strategy": "least-request",
        "estimate": 302.0,  # 405 bytes of role and text are 102 tokens; an answer is 200 until one has ended
        "prompt_bytes": 405.0,
        "reason": f"{A} by least-request: 0",
        "degraded": "",
    }


def test_the_end_of_the_stream_is_the_end_of_the_request(scene: Scene) -> None:
    one = scene.ask()
    fleet = scene.state.fleets["chat"]
    assert (fleet.flying, fleet.replicas[A].endpoint.in_flight) == (1, 1)
    assert scene.ask().endpoints[0] == B
    one.stream.closed()
    assert (fleet.flying, fleet.replicas[A].endpoint.in_flight) == (1, 0)


@pytest.mark.parametrize("cut", [1, 1000, CHUNK, 10**6])
def test_duplex_says_nothing_before_the_body_ends_and_then_gives_it_back(scene: Scene, cut: int) -> None:
    sent = body(150_000)
    talk = scene.stream()
    talk.headers(mode="FULL_DUPLEX_STREAMED", content_length=str(len(sent)))
    pieces = [sent[start : start + cut] for start in range(0, len(sent), cut)] if cut > 1 else [sent[:1], sent[1:]]
    for piece in pieces:
        assert talk.answers == []
        talk.body(piece, ends=False)
    talk.body(b"", ends=True)
    first, *rest = talk.answers
    assert first.WhichOneof("response") == "request_headers"
    headers = changed(first.request_headers.response.header_mutation)
    assert headers == {"x-gateway-destination-endpoint": ",".join((A, B, C))}
    back = [one.request_body.response.body_mutation.streamed_response for one in rest]
    assert b"".join(one.body for one in back) == sent
    assert [one.end_of_stream for one in back] == [False] * (len(back) - 1) + [True]
    assert max(len(one.body) for one in back) <= CHUNK


def test_duplex_with_trailers_ends_with_them(scene: Scene) -> None:
    talk = scene.stream()
    talk.headers(mode="FULL_DUPLEX_STREAMED")
    talk.body(body(), ends=False)
    talk.trailers()
    kinds = [one.WhichOneof("response") for one in talk.answers]
    assert kinds == ["request_headers", "request_body", "request_trailers"]
    assert not talk.answers[1].request_body.response.body_mutation.streamed_response.end_of_stream


def test_duplex_answers_of_engines_come_back_as_they_are(scene: Scene) -> None:
    talk = scene.stream()
    first = ProcessingRequest(request_headers=HttpHeaders(end_of_stream=True))
    first.protocol_config.request_body_mode = first.protocol_config.response_body_mode = 4
    talk.send(first)
    talk.answers.clear()
    talk.send(ProcessingRequest(response_headers=HttpHeaders()))
    talk.send(ProcessingRequest(response_body=HttpBody(body=b"data: 1\n\n")))
    talk.send(ProcessingRequest(response_body=HttpBody(body=b"", end_of_stream=True)))
    assert talk.answers[0].WhichOneof("response") == "response_headers"
    back = [one.response_body.response.body_mutation.streamed_response for one in talk.answers[1:]]
    assert [(one.body, one.end_of_stream) for one in back] == [(b"data: 1\n\n", False), (b"", True)]


def test_a_mode_that_is_not_said_is_buffered(scene: Scene) -> None:
    talk = scene.stream()
    talk.headers(mode=None)
    assert talk.last.WhichOneof("response") == "request_headers"


@pytest.mark.parametrize(
    ("sent", "status", "code", "words"),
    [
        (b"{nope", 400, "bad_request", "not JSON"),
        (b"[1]", 400, "bad_request", "not a JSON object"),
        (b'{"messages": []}', 400, "bad_request", "names no model"),
        (b'{"model": 7}', 400, "bad_request", "names no model"),
        (body(model="gpt-9"), 404, "model_not_found", "no model gpt-9"),
    ],
)
def test_errors_are_openais(scene: Scene, sent: bytes, status: int, code: str, words: str) -> None:
    talk = scene.stream()
    talk.headers(cluster="")
    talk.body(sent)
    assert talk.status == status
    assert talk.last.immediate_response.details == f"picker_{code}"
    error = talk.error["error"]
    assert error["code"] == code and words in error["message"] and error["type"] == "invalid_request_error"
    assert talk.gateway["reason"].startswith(f"{code}: ")
    assert changed(talk.last.immediate_response.headers) == {"content-type": "application/json"}
    assert scene.count("picker_requests_total", "", str(status)) == 1


def test_errors_of_messages_are_anthropics(scene: Scene) -> None:
    talk = scene.stream()
    talk.headers(path="/v1/messages", cluster="")
    talk.body(body(model="gpt-9"))
    assert talk.error == {"type": "error", "error": {"type": "not_found_error", "message": "no model gpt-9 here"}}


def test_a_model_that_envoy_knows_and_the_picker_not_yet_is_503_and_not_404(scene: Scene) -> None:
    """Their files come by two volumes; what Envoy let through will be there in a moment."""
    talk = scene.ask(model="new-adapter")
    assert talk.status == 503 and talk.error["error"]["code"] == "model_unknown_yet"
    assert changed(talk.last.immediate_response.headers)["retry-after"] == "5"


def test_no_replica_is_503_with_retry_after() -> None:
    talk = Scene().ask()
    assert talk.status == 503 and talk.error["error"]["code"] == "no_replica"
    assert changed(talk.last.immediate_response.headers)["retry-after"] == "5"


@pytest.mark.parametrize("subset", [[B], B, f" {B} , 10.9.9.9:1", ["10.0.0.2"]])
def test_a_subset_hint_bounds_the_choice(scene: Scene, subset: str | list[str]) -> None:
    talk = scene.stream()
    talk.headers(subset=subset)
    talk.body(body())
    assert talk.endpoints == [B]


@pytest.mark.parametrize("subset", [[], "", " , "])
def test_an_empty_subset_hint_is_503(scene: Scene, subset: str | list[str]) -> None:
    talk = scene.stream()
    talk.headers(subset=subset)
    talk.body(body())
    assert (talk.status, talk.error["error"]["code"]) == (503, "no_endpoint")
    assert talk.error["error"]["message"] == "the gateway named no endpoint"


def test_a_subset_without_a_replica_is_503_and_does_not_wait() -> None:
    scene = Scene(config(replace(CHAT, hold=HOLD)))
    scene.add(A)
    talk = scene.stream()
    talk.headers(subset=["10.9.9.9:1"])
    talk.body(body())
    assert (talk.status, talk.error["error"]["code"]) == (503, "no_endpoint")


def test_a_foreign_gateway_names_no_cluster(scene: Scene) -> None:
    assert scene.ask(cluster="").endpoints == [A, B, C]
    assert scene.ask(cluster="", model="gpt-9").status == 404


def test_a_cluster_that_only_envoy_knows_is_left_to_envoy(scene: Scene) -> None:
    """Envoy's files are newer than ours for a moment: refusing would lose requests."""
    talk = scene.ask(cluster="new", model="newer")
    assert talk.last.WhichOneof("response") == "request_body" and talk.endpoints == []
    assert talk.gateway["reason"] == "fallback: the picker does not know cluster new"
    assert scene.count("picker_degraded_total", "", "config") == 1
    talk = scene.stream()
    talk.headers(cluster="new", mode="FULL_DUPLEX_STREAMED")
    sent = body(model="newer")
    talk.body(sent)
    assert talk.answers[0].WhichOneof("response") == "request_headers"
    assert talk.last.request_body.response.body_mutation.streamed_response.body == sent


@pytest.mark.parametrize("mode", ["BUFFERED", "FULL_DUPLEX_STREAMED"])
def test_the_base_model_answers_for_a_missing_adapter_and_says_so(mode: str) -> None:
    scene = Scene(config(replace(CHAT, placed=frozenset({"refunds"}), when_missing="base")))
    scene.add(A, models={"llama"})
    talk = scene.stream()
    talk.headers(mode=mode)
    talk.body(body(model="refunds", n=1))
    place = 0 if mode != "BUFFERED" else -1
    answer: Any = talk.answers[place]
    common = (answer.request_headers if place == 0 else answer.request_body).response
    sent = common.body_mutation.body or talk.last.request_body.response.body_mutation.streamed_response.body
    assert orjson.loads(sent) == orjson.loads(body(n=1))
    assert changed(common.header_mutation)["content-length"] == str(len(sent))
    fields = answer.dynamic_metadata.fields["gateway"].struct_value.fields
    assert fields["answered_by"].string_value == "llama"
    assert fields["degraded"].string_value == "adapter refunds is missing: llama answers"
    assert scene.count("picker_degraded_total", "chat", "base") == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_other_requests_without_a_body_go_on(scene: Scene, method: str) -> None:
    talk = scene.stream()
    talk.headers(path="/v1/else", method=method, ends=True)
    assert talk.last.WhichOneof("response") == "request_headers"


def test_a_post_without_a_body_is_400(scene: Scene) -> None:
    talk = scene.stream()
    talk.headers(ends=True)
    assert (talk.status, talk.error["error"]["code"]) == (400, "no_body")


@pytest.mark.parametrize(
    ("service", "headers", "user", "key"),
    [
        ({"session_header": "x-session"}, {"x_session": "a"}, "c", "a"),
        ({"session_cookie": "sid"}, {"cookie": "other=1; sid=b"}, "c", "b"),
        ({"session_cookie": "sid"}, {"cookie": "sidx=1"}, "c", "c"),
        ({}, {"x_session": "a"}, "c", "c"),
        ({"session_header": "x-session"}, {}, None, ""),
    ],
)
def test_the_session_key(service: dict[str, str], headers: dict[str, str], user: str | None, key: str) -> None:
    scene = Scene(config(replace(CHAT, strategy="session", **service)))  # type: ignore[arg-type]
    scene.add(*(f"10.0.0.{number}:8000" for number in range(9)))
    talk = scene.stream()
    talk.headers(x_request_id="r", **headers)
    talk.body(body(user=user) if user else body())
    table = scene.picker.ring.text("r", 0.0) or ""
    same = Scene(config(replace(CHAT, strategy="session", session_header="k")))
    same.add(*(f"10.0.0.{number}:8000" for number in range(9)))
    other = same.ask(k=key) if key else same.ask()
    assert talk.endpoints[0] == other.endpoints[0] and "by session" in table


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(data: bytes) -> None:
    scene = Scene()
    scene.add(A)
    talk = Talk(scene.picker)
    talk.stream.message(data)
    talk.headers()
    talk.body(data)
    talk.stream.message(data)
    talk.stream.closed()
    assert scene.state.fleets["chat"].flying == 0


@given(st.lists(st.sampled_from(["headers", "body", "trailers", "response"]), max_size=6), st.booleans())
def test_any_order_of_messages_is_survived(order: list[str], duplex: bool) -> None:
    scene = Scene()
    scene.add(A)
    talk = scene.stream()
    for kind in order:
        if kind == "headers":
            talk.headers(mode="FULL_DUPLEX_STREAMED" if duplex else "BUFFERED")
        elif kind == "body":
            talk.body(body())
        elif kind == "trailers":
            talk.trailers()
        else:
            talk.send(ProcessingRequest(response_body=HttpBody(body=b"x")))
    flying = scene.state.fleets["chat"].flying
    assert flying <= 1, "one stream is one request"
    talk.stream.closed()
    assert scene.state.fleets["chat"].flying == 0


@given(st.text(max_size=400), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_spliced_fields_are_a_struct(value: str, estimate: float, size: float) -> None:
    found = Struct.FromString(text("reason")(value) + field("other", value) + numbers(estimate, size))
    assert dict(found) == {"reason": value, "other": value, "estimate": estimate, "prompt_bytes": size}


@pytest.mark.parametrize("size", [*range(105, 130), 255, 16_384, 70_000])
def test_lengths_of_more_than_one_byte(size: int) -> None:
    assert dict(Struct.FromString(text("reason")("x" * size))) == {"reason": "x" * size}


def test_nothing_of_a_prompt_stays_while_the_engine_answers(scene: Scene) -> None:
    talk = scene.stream()
    talk.headers()
    talk.body(body(100_000))
    asking = talk.stream._asking
    assert asking and asking.request.prompt.text == b"" and talk.stream._body == [] and talk.stream._headers == {}


def test_more_time_is_seconds_and_nanoseconds() -> None:
    from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingResponse

    found = ProcessingResponse.FromString(more_time(182.5))
    assert (found.override_message_timeout.seconds, found.override_message_timeout.nanos) == (182, 500_000_000)
    assert found.WhichOneof("response") is None
