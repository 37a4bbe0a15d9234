"""Who is turned away: the lowest class while a service is saturated, and a tenant that has used its tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import CHAT, SECOND, Scene, changed, config

from aibrix_compile.policy import budget, shedding

A, B = "10.0.0.1:8000", "10.0.0.2:8000"
CLASSES = ("interactive", "normal", "batch")
SHED = replace(CHAT, priority=CLASSES)


@pytest.mark.parametrize(
    ("running", "kept"),
    [
        (3, ["interactive", "normal", "batch", "what", ""]),  # of 4 seats
        (4, ["interactive", "normal"]),
        (5, ["interactive", "normal"]),
        (6, ["interactive"]),
        (7, ["interactive"]),
        (8, []),
    ],
)
def test_the_lowest_class_is_shed_first(running: int, kept: list[str]) -> None:
    scene = Scene(config(SHED))
    scene.add(A)
    scene.report(A, running=4, waiting=running - 4)
    found = []
    for name in (*CLASSES, "what", ""):
        talk = scene.ask(x_priority=name)
        if talk.status == 0:
            found.append(name)
            talk.stream.closed()
            scene.report(A, running=4, waiting=running - 4)
        else:
            assert (talk.status, talk.error["error"]["code"]) == (429, "shed")
            assert changed(talk.last.immediate_response.headers)["retry-after"] == "2"
    assert found == kept
    lost = 5 - len(kept)
    shed = sum(scene.count("picker_shed_total", "chat", name) for name in CLASSES)
    assert shed == lost, "unknown and missing classes count as the lowest"


def test_a_full_kv_cache_is_saturation_whatever_the_batch_size() -> None:
    scene = Scene(config(SHED))
    scene.add(A, B)
    scene.report(A, running=2, kv_share=0.96)
    assert scene.ask(x_priority="batch").endpoints == [B]
    scene.report(B, running=2, kv_share=0.96)
    assert scene.ask(x_priority="batch").status == 429
    assert scene.ask(x_priority="interactive").status == 0


def test_without_classes_nothing_is_shed() -> None:
    scene = Scene()
    scene.add(A)
    scene.report(A, running=4, waiting=400, kv_share=1.0)
    assert scene.ask(x_priority="batch").status == 0


replicas = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 50), st.booleans()), min_size=1, max_size=5
)


@given(st.integers(1, 6), replicas)
def test_a_higher_class_is_never_shed_before_a_lower_one(classes: int, seen: list[tuple[int, int, int, bool]]) -> None:
    fill = shedding.fill(seen)
    shed = [shedding.sheds(classes, rank, fill) for rank in range(classes)]
    assert shed == sorted(shed)
    if fill < 1:
        assert not any(shed)
    if fill >= 2:
        assert all(shed)


@given(replicas, st.integers(0, 4))
def test_more_in_flight_never_lowers_the_fill(seen: list[tuple[int, int, int, bool]], place: int) -> None:
    more = list(seen)
    in_flight, *rest = more[place % len(more)]
    more[place % len(more)] = (in_flight + 1, *rest)  # type: ignore[assignment]
    assert shedding.fill(more) > shedding.fill(seen)


def test_nobody_is_not_full() -> None:
    assert shedding.fill([]) == 0


# budgets


def test_a_tenant_that_has_used_its_minute_waits() -> None:
    scene = Scene(config(budgets={"acme": 1000}))
    scene.add(A)
    first = scene.ask(x_tenant="acme")
    estimate = first.gateway["estimate"]
    assert estimate == 203
    statuses = [scene.ask(x_tenant="acme").status for _ in range(5)]
    assert statuses == [0, 0, 0, 429, 429]
    talk = scene.ask(x_tenant="acme")
    assert talk.error["error"] | {"message": ""} == {
        "message": "",
        "type": "rate_limit_error",
        "param": None,
        "code": "budget",
    }
    wait = int(changed(talk.last.immediate_response.headers)["retry-after"])
    assert wait == 1, "15 tokens lack, of 16.7 a second"
    assert scene.count("picker_budget_refused_total", "acme") == 3
    assert scene.ask(x_tenant="other").status == 0
    scene.now += SECOND
    assert scene.ask(x_tenant="acme").status == 0


def test_max_tokens_lowers_what_is_reserved_and_n_raises_it() -> None:
    scene = Scene()
    scene.add(A)
    found = []
    for more in (b"", b', "max_tokens": 10', b', "max_completion_tokens": 10, "n": 3', b', "max_tokens": 9000'):
        talk = scene.stream()
        talk.headers()
        talk.body(b'{"model": "llama", "prompt": "hello wo"%b}' % more)
        found.append(talk.gateway["estimate"])
    assert found == [203, 13, 33, 203], "never more than the mean answer"


def test_what_other_pickers_spend_counts() -> None:
    scene = Scene(config(budgets={"acme": 1000}), sharing=True)
    scene.add(A)
    scene.state.peer_spent("other", "acme", 900, scene.now)
    assert scene.ask(x_tenant="acme").status == 429
    assert scene.state.outbox == [], "what others said is not said again"
    scene.state.peer_spent("other", "acme", -900, scene.now)
    assert scene.ask(x_tenant="acme").status == 0


minutes = st.integers(1, 10**6)
amounts = st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 10**8)), max_size=20)


@given(minutes, amounts)
def test_a_bucket_never_holds_more_than_a_minute(limit: int, steps: list[tuple[float, int]]) -> None:
    bucket, now = budget.full(limit, 0), 0
    for tokens, passed in steps:
        now += passed
        bucket = budget.spend(limit, bucket, tokens, now)
        assert bucket.left <= limit


@given(minutes, st.lists(st.floats(0, 1000), max_size=9), st.randoms())
def test_the_order_of_charges_does_not_matter(limit: int, charges: list[float], chance: object) -> None:
    mixed = list(charges)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    found = []
    for row in (charges, mixed):
        bucket = budget.full(limit, 0)
        for tokens in row:
            bucket = budget.spend(limit, bucket, tokens, 1000)
        found.append(bucket.left)
    assert found[0] == pytest.approx(found[1])


@given(minutes, st.floats(0, 2e6), st.floats(1, 1e6))
def test_after_the_wait_it_may_go_and_a_second_earlier_not(limit: int, spent: float, wanted: float) -> None:
    bucket = budget.spend(limit, budget.full(limit, 0), spent, 0)
    wait = budget.wait_seconds(limit, bucket, wanted, 0)
    assert budget.wait_seconds(limit, bucket, wanted, wait * SECOND) <= 1  # rounding of the last token
    assert budget.wait_seconds(limit, bucket, wanted, (wait + 1) * SECOND) == 0
    if wait > 1:
        assert budget.wait_seconds(limit, bucket, wanted, (wait - 2) * SECOND) > 0


def test_a_request_larger_than_a_minute_goes_when_the_bucket_is_full_and_is_owed() -> None:
    bucket = budget.full(600, 0)
    assert budget.wait_seconds(600, bucket, 5000, 0) == 0
    bucket = budget.spend(600, bucket, 5000, 0)
    assert budget.left(600, bucket, 0) == -4400
    assert budget.wait_seconds(600, bucket, 1, 0) == 441
    assert budget.left(600, bucket, -5) == -4400, "time does not go back"
