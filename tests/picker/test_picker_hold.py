"""Requests that wait: who may, for how long, and what lets them go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scenes import CHAT, HOLD, SECOND, Scene, config

A, B = "10.0.0.1:8000", "10.0.0.2:8000"
HELD = replace(CHAT, hold=HOLD)
LORA = replace(HELD, placed=frozenset({"refunds"}), when_missing="hold")


def test_envoy_is_asked_for_time_and_the_choice_comes_with_the_replica() -> None:
    scene = Scene(config(HELD))
    talk = scene.ask()
    assert talk.last.override_message_timeout.seconds == 32
    assert len(talk.answers) == 2 and scene.state.holding() == {"chat": 1}
    scene.now += 10 * SECOND
    scene.add(A)
    assert talk.endpoints == [A] and len(talk.answers) == 3 and scene.state.holding() == {}
    assert scene.count("picker_held_total", "chat", "released") == 1
    assert scene.state.fleets["chat"].flying == 1
    talk.stream.closed()
    assert scene.state.fleets["chat"].flying == 0


def test_the_streamed_mode_knows_no_such_bound() -> None:
    scene = Scene(config(HELD))
    talk = scene.stream()
    talk.headers(mode="FULL_DUPLEX_STREAMED")
    talk.body(b'{"model": "llama", "prompt": "x"}')
    assert talk.answers == []
    scene.add(A)
    assert [one.WhichOneof("response") for one in talk.answers] == ["request_headers", "request_body"]


def test_a_replica_that_is_not_ready_lets_nobody_go() -> None:
    scene = Scene(config(HELD))
    talk = scene.ask()
    scene.add(A, ready=False)
    assert len(talk.answers) == 2
    scene.add(A)
    assert talk.endpoints == [A]


def test_first_come_first_served() -> None:
    scene = Scene(config(HELD))
    first, second = scene.ask(), scene.ask()
    order: list[int] = []
    for number, talk in enumerate((first, second)):
        send = talk.stream._send
        talk.stream._send = lambda data, number=number, send=send: (order.append(number), send(data))
    scene.add(A)
    assert order == [0, 1]


def test_the_bound_in_number_is_503_at_once() -> None:
    scene = Scene(config(HELD))
    scene.ask(), scene.ask()
    talk = scene.ask()
    assert (talk.status, talk.error["error"]["code"]) == (503, "hold_full")
    assert scene.count("picker_held_total", "chat", "full") == 1


def test_the_bound_in_bytes_is_503_at_once() -> None:
    scene = Scene(config(replace(CHAT, hold=replace(HOLD, bytes=140))))
    assert scene.ask().status == 0, "64 bytes of body and 10 of prompt"
    assert scene.ask().status == 503
    assert scene.picker.room.bytes["chat"] <= 140


def test_after_its_time_it_is_503() -> None:
    scene = Scene(config(HELD))
    talk = scene.ask()
    scene.now += 29 * SECOND
    scene.picker.tick()
    assert talk.status == 0
    scene.now += SECOND
    scene.picker.tick()
    assert talk.status == 503 and "waited 30 s" in talk.error["error"]["message"]
    assert scene.state.holding() == {} and scene.picker.room.bytes == {}
    scene.add(A)
    assert talk.status == 503, "it is answered once"
    assert scene.count("picker_held_total", "chat", "expired") == 1


def test_a_client_that_leaves_frees_its_place() -> None:
    scene = Scene(config(HELD))
    one, two = scene.ask(), scene.ask()
    one.stream.closed()
    assert scene.state.holding() == {"chat": 1} and scene.picker.room.bytes == {"chat": 74}
    assert scene.ask().status == 0
    scene.add(A)
    assert two.endpoints == [A] and scene.state.fleets["chat"].flying == 2
    assert scene.count("picker_held_total", "chat", "left") == 1


def test_a_held_request_goes_only_where_envoy_can_go() -> None:
    scene = Scene(config(HELD), dns=True)
    talk = scene.ask()
    scene.add(A, B)
    assert talk.status == 0 and len(talk.answers) == 2, "DNS has not named them"
    late = scene.ask()
    assert len(late.answers) == 2, "who comes while others wait, waits as well"
    scene.state.visible("chat", frozenset({"10.0.0.2"}), scene.now)
    assert len(talk.answers) == 2, "Envoy may not have asked yet"
    scene.now += int(1.5 * SECOND)
    scene.state.visible("chat", frozenset({"10.0.0.2"}), scene.now)
    assert talk.endpoints == [B] and late.endpoints == [B]
    assert sorted(scene.ask().endpoints) == [A, B], "nobody waits any more"


def test_an_adapter_that_comes_lets_its_requests_go_and_base_requests_never_wait_for_it() -> None:
    scene = Scene(config(LORA), dns=True)
    scene.add(A, B, models={"llama"})
    talk = scene.ask("refunds")
    assert talk.last.HasField("override_message_timeout")
    assert sorted(scene.ask("llama").endpoints) == [A, B]
    scene.state.visible("chat", frozenset({"10.0.0.1", "10.0.0.2"}), scene.now)
    scene.now += 2 * SECOND
    scene.state.serves("chat", B, frozenset({"llama", "refunds"}), scene.now)
    assert talk.endpoints == [B] and talk.gateway["adapter"] == "refunds"


def test_a_name_that_only_envoy_knows_waits_until_the_picker_has_read_of_it() -> None:
    scene = Scene(config(HELD))
    scene.add(A)
    talk = scene.ask(model="refunds")
    assert scene.state.holding() == {"chat": 1}
    scene.state.configure(config(LORA), scene.now)
    assert scene.state.holding() == {"chat": 1}, "it is known now, and nobody has it yet"
    scene.state.serves("chat", A, frozenset({"llama", "refunds"}), scene.now)
    assert talk.endpoints == [A]


@pytest.mark.parametrize("when_missing", ["reject", "base"])
def test_a_missing_adapter_waits_only_where_it_was_asked_for(when_missing: str) -> None:
    scene = Scene(config(replace(LORA, when_missing=when_missing)))
    scene.add(A, models={"llama"})
    talk = scene.ask("refunds")
    assert scene.state.holding() == {}
    assert (talk.status == 503) == (when_missing == "reject")
    scene.state.gone("chat", A)
    scene.ask("refunds")
    assert scene.state.holding() == {"chat": 1}, "a service from zero is another matter"


def test_who_has_waited_is_not_shed() -> None:
    scene = Scene(config(replace(HELD, priority=("high", "low"))))
    talk = scene.ask(x_priority="low")
    scene.add(A, ready=False)
    scene.report(A, running=4)
    scene.state.replica("chat", A, "h100", ready=True, draining=False, incarnation="1", now=scene.now)
    assert talk.endpoints == [A]
    assert scene.ask(x_priority="low").status == 429


def test_without_hold_nobody_waits() -> None:
    assert Scene().ask().status == 503


def test_a_service_that_leaves_the_config_answers_those_who_wait() -> None:
    scene = Scene(config(HELD))
    talk = scene.ask()
    scene.picker.adopt(config(replace(CHAT, name="other", model="other")))
    assert talk.gateway["reason"].startswith("fallback: ") and scene.state.holding() == {}


def test_what_waits_has_reserved_its_tokens_and_gets_them_back() -> None:
    scene = Scene(config(HELD, budgets={"acme": 1000}))
    talk = scene.ask(x_tenant="acme")
    assert scene.state.budget_wait("acme", 900, scene.now) > 0
    talk.stream.closed()
    assert scene.state.budget_wait("acme", 1000, scene.now) == 0
    talk = scene.ask(x_tenant="acme")
    scene.now += 30 * SECOND
    scene.picker.tick()
    assert talk.status == 503 and scene.state.budget_wait("acme", 1000, scene.now) == 0
    talk.stream.closed()
