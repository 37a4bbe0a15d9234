"""Routing: golden scores, who wins in small scenes, and what holds for every scene."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrix_compile.policy import routing
from aibrix_compile.policy.profile import TABLE, prefill_ms
from aibrix_compile.policy.routing import STRATEGIES, Ask, Config, Endpoint, choose, terms

H100 = TABLE["h100/8b"]
NOW = 60_000_000


def fleet(count: int = 3, **more: int) -> list[Endpoint]:
    found = [Endpoint(f"chat-{number}", H100, **more) for number in range(count)]
    for one in found:
        one.reported(0, 0, 0, NOW - 500_000)
    return found


def chosen(
    strategy: str, ask: Ask, endpoints: list[Endpoint], hits: list[int] | None = None, chance: float = 0.0
) -> str:
    return choose(Config(strategy), ask, endpoints, hits or [0] * len(endpoints), NOW, chance).name


def test_least_request_counts_what_others_sent() -> None:
    a, b, c = endpoints = fleet()
    a.sent(100, 0, NOW)
    b.reported(running=3, waiting=1, kv_used=900, now=NOW)
    assert (a.load, b.load, c.load) == (1, 4, 0)
    assert chosen("least-request", Ask(10), endpoints) == "chat-2"
    b.sent(100, 0, NOW)
    b.reported(running=1, waiting=0, kv_used=100, now=NOW)  # the one that we sent
    assert b.others == 0 and b.load == 1


def test_equals_are_drawn_by_the_callers_chance() -> None:
    endpoints = fleet(4)
    counts = Counter(chosen("least-request", Ask(10), endpoints, chance=step / 100) for step in range(100))
    assert set(counts.values()) == {25}
    assert [chosen("random", Ask(10), endpoints, chance=step / 4) for step in range(4)] == [
        one.name for one in endpoints
    ]


def test_least_kv_cache_adds_what_no_report_has_seen() -> None:
    a, b = endpoints = fleet(2)
    a.reported(1, 0, 1000, NOW)
    b.reported(1, 0, 900, NOW)
    assert chosen("least-kv-cache", Ask(10), endpoints) == "chat-1"
    b.sent(8000, 0, NOW)
    assert chosen("least-kv-cache", Ask(10), endpoints) == "chat-0"


@pytest.mark.parametrize(
    ("hits", "load", "winner"),
    [
        ((0, 0, 600), (0, 0, 0), "chat-2"),
        ((0, 0, 200), (5, 0, 0), "chat-1"),  # a fifth of the prompt is not worth it: least KV cache
        ((0, 0, 600), (1, 1, 9), "chat-1"),  # 9 in flight are above 1.25 x 3.7 + 2
        ((0, 300, 600), (0, 0, 4), "chat-1"),
        ((500, 700, 600), (0, 0, 0), "chat-1"),
    ],
)
def test_prefix_cache_follows_a_prefix_that_is_worth_it(
    hits: tuple[int, ...], load: tuple[int, ...], winner: str
) -> None:
    endpoints = fleet()
    for one, count in zip(endpoints, load, strict=True):
        for _ in range(count):
            one.sent(100, 0, NOW - 10_000_000)
        one.reported(count, 0, count * 120, NOW)
    endpoints[0].kv_used += 50
    assert chosen("prefix-cache", Ask(1000), endpoints, list(hits)) == winner


def test_cost_by_hand() -> None:
    """One replica with a backlog and five in flight, and one that has half of the prompt."""
    busy, _ = endpoints = fleet(2)
    for _ in range(5):
        busy.sent(2000, 0, NOW)
    first, second = (row["score cost"] for row in terms(Config("cost"), Ask(1000), endpoints, [0, 500], NOW))
    queued = 5 * 2000 * (0.028 + 1.3e-6 * 1000)
    step = 9.25 + 2 + 5 * 0.02 + 5e-5 * (10_000 + 5 * 100 + 1000)
    assert first == pytest.approx(queued + 1000 * (0.028 + 1.3e-6 * 500) * (1 + 0.1 * 5) + 2 * step, abs=0.02)
    assert second == pytest.approx(500 * (0.028 + 1.3e-6 * 750) + 2 * (9.25 + 2 + 5e-5 * 1000))
    assert chosen("cost", Ask(1000), endpoints, [0, 500]) == "chat-1"


def test_a_backlog_is_read_as_time_passes() -> None:
    one = fleet(1)[0]
    one.sent(10_000, 0, NOW)
    took = one.clear_us - NOW
    assert took / 1000 == pytest.approx(prefill_ms(H100, 10_000, budget=10_000) - H100.step_ms, rel=0.05)
    later = routing.cost(Ask(10), [one], [0], NOW + took)[0]
    assert routing.cost(Ask(10), [one], [0], NOW)[0] - later == pytest.approx(took / 1000)


def test_what_is_queued_is_no_more_than_what_is_in_flight() -> None:
    """A client that hangs up takes its prompt along; the clock alone would wait for it."""
    one = fleet(1)[0]
    one.sent(100_000, 0, NOW)
    one.sent(1000, 0, NOW)
    before = one.queued_ms(NOW)
    one.ended(100_000)
    assert before > 9000 and one.queued_ms(NOW) == pytest.approx(before / 101, rel=0.01)
    one.ended(1000)
    assert one.queued_ms(NOW) == 0 and one.work_ms == 0


def test_what_keeps_waiting_is_queued_though_the_clock_has_run_out() -> None:
    one = fleet(1)[0]
    for _ in range(10):
        one.sent(1000, 0, NOW - 60_000_000)
    own = 1000 * (0.028 + 1.3e-6 * 500)
    assert one.queued_ms(NOW) == 0
    one.reported(running=4, waiting=6, kv_used=4000, now=NOW)
    assert one.queued_ms(NOW) == 0  # they may have waited for one step
    one.reported(running=4, waiting=6, kv_used=4000, now=NOW)
    assert one.queued_ms(NOW) == pytest.approx(6 * own)
    one.ended(1000)
    one.sent(1000, 500, NOW)  # half of it is cached there
    half = 500 * (0.028 + 1.3e-6 * 750)
    assert one.queued_ms(NOW) == pytest.approx(6 * (9 * own + half) / 10)
    assert one.queued_ms(NOW + 5_000_001) == 0  # a report as old as that says nothing
    one.reported(running=10, waiting=1, kv_used=10_000, now=NOW)
    assert one.queued_ms(NOW) == pytest.approx(one.work_ms / 10)  # of 10 and another picker's, one waits
    one.reported(running=12, waiting=0, kv_used=10_000, now=NOW)
    assert one.queued_ms(NOW) == pytest.approx(half, rel=0.01)  # nothing waits there: the clock again


def test_prompts_are_read_while_room_comes_free() -> None:
    """Of both waits the longer one counts."""
    one = fleet(1)[0]
    for _ in range(4):
        one.sent(120_000, 0, NOW - 60_000_000)
    full = routing.cost(Ask(1000), [one], [0], NOW)[0]
    for _ in range(2):
        one.reported(running=3, waiting=1, kv_used=360_000, now=NOW)
    queued = routing.cost(Ask(1000), [one], [0], NOW)[0]
    assert full > 1000
    assert queued - one.queued_ms(NOW) == pytest.approx(routing.cost(Ask(1000), [_roomy(one)], [0], NOW)[0], rel=0.01)


def _roomy(one: Endpoint) -> Endpoint:
    """The same requests, all of them read, in a KV cache that can not be full."""
    found = Endpoint("roomy", replace(H100, kv_tokens=40_000_000))
    for _ in range(one.in_flight):
        found.sent(one.prompt_tokens // one.in_flight, 0, NOW - 60_000_000)
    return found


def test_cost_avoids_a_full_kv_cache() -> None:
    full, empty = endpoints = fleet(2)
    full.sent(380_000, 379_900, NOW)  # long contexts, all cached: nothing to compute, no room either
    for _ in range(3):
        empty.sent(500, 0, NOW)
    assert chosen("cost", Ask(2000), endpoints) == "chat-1"
    roomy = replace(H100, kv_tokens=4_000_000)
    big = Endpoint("big", roomy)
    big.reported(0, 0, 0, NOW)
    big.sent(380_000, 379_900, NOW)
    assert routing.cost(Ask(2000), [full], [0], NOW)[0] > 2 * routing.cost(Ask(2000), [big], [0], NOW)[0]


def test_lora_affinity() -> None:
    a, b, c = endpoints = fleet(3, slots=1)
    a.sent(100, 0, NOW, "red")
    b.sent(100, 0, NOW, "blue")
    assert chosen("lora-affinity", Ask(100, "red"), endpoints) == "chat-0"
    assert chosen("lora-affinity", Ask(100, "green"), endpoints) == "chat-2"
    assert chosen("lora-affinity", Ask(100), endpoints) == "chat-2"  # the base model: by cost
    a.ended(100, 10, "red")
    c.sent(100, 0, NOW, "white")
    assert a.adapters == {} and list(a.recent) == ["red"]
    assert chosen("lora-affinity", Ask(100, "red"), endpoints) == "chat-0"


def test_a_session_stays_until_its_replica_is_overloaded_or_gone() -> None:
    endpoints = fleet(8)
    homes = {key: chosen("session", Ask(10, session=key), endpoints) for key in map(str, range(400))}
    assert set(Counter(homes.values()).values()) >= {min(Counter(homes.values()).values())}
    assert max(Counter(homes.values()).values()) < 90
    gone = homes["0"]
    left = [one for one in endpoints if one.name != gone]
    moved = [key for key, home in homes.items() if chosen("session", Ask(10, session=key), left) != home]
    assert set(moved) == {key for key, home in homes.items() if home == gone}
    for _ in range(30):
        next(one for one in endpoints if one.name == gone).sent(10, 0, NOW)
    assert chosen("session", Ask(10, session="0"), endpoints) != gone
    assert chosen("session", Ask(10), endpoints, chance=0.0) != gone  # no key: fewest in flight


def test_weighted_is_between_its_parts() -> None:
    a, b = endpoints = fleet(2)
    for _ in range(3):
        a.sent(10, 0, NOW - 50_000_000)
    hits = [900, 0]
    ask = Ask(1000)

    def by(prefix: float, load: float) -> str:
        config = Config("weighted", weights={"prefix-cache": prefix, "least-request": load})
        return choose(config, ask, endpoints, hits, NOW, 0.0).name

    assert by(2, 1) == "chat-0" and by(1, 2) == "chat-1"
    with_random = Config("weighted", weights={"random": 1, "least-request": 1})
    assert choose(with_random, ask, endpoints, hits, NOW, 0.0).name == b.name


@pytest.mark.parametrize("strategy", ["least-kv-cache", "prefix-cache"])
def test_old_reports_are_said_and_the_fallback_decides(strategy: str) -> None:
    endpoints = fleet()
    endpoints[1].reported_us = NOW - 6_000_000
    endpoints[0].sent(10, 0, NOW)
    found = choose(Config(strategy), Ask(10), endpoints, [0, 0, 0], NOW, 0.0)
    assert found.strategy == "least-request" and found.name == "chat-1"
    assert found.degraded == "no report of chat-1 for 5 s" and found.degraded in found.reason


def test_no_profile_is_said() -> None:
    endpoints = [Endpoint("a", None), Endpoint("b", H100)]
    found = choose(Config("cost", fallback="random"), Ask(10), endpoints, [0, 0], NOW, 0.9)
    assert (found.strategy, found.name, found.degraded) == ("random", "b", "no profile of an engine")


scene = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 90_000), st.integers(0, 300), st.integers(0, 400_000)),
    min_size=1,
    max_size=9,
)


@settings(max_examples=150, deadline=None)
@given(scene, st.integers(1, 50_000), st.floats(0, 0.999), st.sampled_from(STRATEGIES))
def test_every_strategy_names_one_that_is_there(
    states: list[tuple[int, int, int, int]], tokens: int, chance: float, strategy: str
) -> None:
    def build() -> list[Endpoint]:
        found = []
        for number, (flight, prompt, waiting, used) in enumerate(states):
            one = Endpoint(str(number), H100)
            for _ in range(flight):
                one.sent(prompt, prompt // 2, NOW - 1000, "x" if number % 2 else "")
            one.reported(flight, waiting, used, NOW)
            found.append(one)
        return found

    hits = [min(tokens - 1, used % (tokens + 1)) for _, _, _, used in states]
    config = Config(strategy, weights={"cost": 1, "least-request": 2})
    ask = Ask(tokens, "x", "someone")
    one, other = (choose(config, ask, build(), hits, NOW, chance) for _ in range(2))
    assert one == other and 0 <= one.place < len(states) and one.name == str(one.place)
    assert not one.degraded and one.reason.startswith(f"{one.name} by {strategy}")
    rows = terms(config, ask, build(), hits, NOW)
    assert len(rows) == len(states)


@settings(max_examples=100, deadline=None)
@given(scene, st.integers(1, 20_000))
def test_more_work_on_a_replica_never_makes_it_cheaper(states: list[tuple[int, int, int, int]], tokens: int) -> None:
    one = Endpoint("a", H100)
    before = 0.0
    for flight, prompt, *_ in states:
        for _ in range(flight % 5):
            one.sent(prompt, 0, NOW)
        after = routing.cost(Ask(tokens), [one], [0], NOW)[0]
        assert after >= before
        before = after
    assert routing.cost(Ask(tokens), [one], [tokens - 1], NOW)[0] <= before


def test_ended_requests_leave_nothing() -> None:
    one = fleet(1)[0]
    for tokens in (10, 2000, 50_000):
        one.sent(tokens, 0, NOW, "red")
    for tokens in (2000, 10, 50_000):
        one.ended(tokens, 320, "red")
    assert (one.in_flight, one.prompt_tokens, one.work_ms, one.adapters) == (0, 0, 0, {})
    one.sent(0, 0, NOW)
    one.ended(0)  # nothing to read in it, and nothing to divide by
    assert (one.in_flight, one.queued_ms(NOW)) == (0, 0)
    assert 200 < one.answer_tokens < 320
