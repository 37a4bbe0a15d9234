"""The engine model against the mock engine, which makes every step: the same requests get their tokens at the same times."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence as Many
from dataclasses import replace

import pytest

from aibrix_compile.policy.profile import TABLE, Profile, decode_ms, prefill_ms, step_ms
from aibrix_compile.simulate.engine import Engine, Limits, Sequence, bucket, gap_us
from aibrix_compile.simulate.trace import Request
from aibrix_mock.core import EngineCore
from aibrix_mock.core import Limits as MockLimits
from aibrix_mock.core import Request as MockRequest
from aibrix_mock.tokens import TOKEN_BYTES, Answer

H100 = TABLE["h100/8b"]
DEFAULT = Limits()


def served(
    requests: Many[Request], profile: Profile = H100, limits: Limits = DEFAULT, unit: int = 0
) -> tuple[list[Sequence], Engine]:
    """All of them on one engine, in the order given."""
    engine, found, events = Engine(profile, limits, unit), [], []
    waiting = sorted(enumerate(requests), key=lambda pair: pair[1].at, reverse=True)
    while waiting or events:
        if waiting and (not events or waiting[-1][1].at <= events[0]):
            index, request = waiting.pop()
            until = engine.add(Sequence(index, request, request.at), request.at)
        else:
            now = heapq.heappop(events)
            if engine.until != now:
                continue
            until = engine.advance(now)
            found += engine.finished
            engine.finished.clear()
        if until is not None:
            heapq.heappush(events, until)
    return sorted(found, key=lambda one: one.index), engine


def mocked(requests: Many[Request], profile: Profile, limits: Limits) -> list[MockRequest]:
    """The same on the mock engine's scheduler; every prompt is different."""
    core = EngineCore(
        profile,
        MockLimits(131_072, limits.max_num_seqs, limits.max_num_batched_tokens, 16, profile.kv_blocks, False),
    )
    queue = sorted(enumerate(requests), key=lambda pair: pair[1].at, reverse=True)
    found, end = [], None
    while queue or end is not None:
        if end is None or (queue and queue[-1][1].at / 1e6 <= end):
            index, request = queue.pop()
            prompt = index.to_bytes(TOKEN_BYTES, "little") * request.input
            one = MockRequest(str(index), prompt, Answer(index, prompt), request.output)
            core.add(one, request.at / 1e6)
            found.append((index, one))
            if end is None:
                end = core.begin(request.at / 1e6)
        else:
            core.finish()
            end = core.begin(end)
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def arrivals(count: int, rate: float, seed: int, most_in: int = 3000, most_out: int = 300) -> list[Request]:
    draw, at, found = random.Random(seed), 0.0, []
    for _ in range(count):
        at += -1e6 / rate * (1 - draw.random()) ** 0.5
        at = abs(at)
        found.append(Request(int(at), 1 + int(draw.random() * most_in), 1 + int(draw.random() * most_out)))
    return sorted(found, key=lambda one: one.at)


@pytest.mark.parametrize("rate", [0.5, 4, 20])
@pytest.mark.parametrize("budget", [512, 8192])
def test_times_are_those_of_an_engine_that_makes_every_step(rate: float, budget: int) -> None:
    requests = arrivals(150, rate, seed=int(rate * 10) + budget)
    limits = Limits(max_num_seqs=32, max_num_batched_tokens=budget)
    ours, _ = served(requests, limits=limits)
    theirs = mocked(requests, H100, limits)
    assert len(ours) == len(theirs) == 150
    for one, other in zip(ours, theirs, strict=True):
        # a step's end is rounded to a microsecond, and 300 of them add up
        assert one.first == pytest.approx(other.first_at * 1e6, abs=400), one.index
        assert one.finished == pytest.approx(other.last_at * 1e6, abs=400), one.index


def test_a_full_cache_preempts_nearly_as_often() -> None:
    """Blocks are counted, not handed out, so a preemption may come a step later than in an engine."""
    small = replace(H100, kv_tokens=16_000)
    requests = arrivals(200, 20, seed=3, most_in=2000, most_out=600)
    ours, engine = served(requests, small)
    theirs = mocked(requests, small, DEFAULT)
    assert engine.preemptions > 20
    assert engine.preemptions == pytest.approx(sum(one.preemptions for one in theirs), rel=0.35)
    mean = sum(one.finished for one in ours) / 200
    assert mean == pytest.approx(sum(one.last_at for one in theirs) * 1e6 / 200, rel=0.02)


def test_one_request_by_hand() -> None:
    (one,), engine = served([Request(1000, 500, 11)])
    first = prefill_ms(H100, 500)
    assert one.first - 1000 == round(first * 1000)
    assert one.finished - one.first == pytest.approx(decode_ms(H100, 1, 501, 10) * 1000, abs=1)
    assert engine.until is None and engine.private == 0 and engine.context == 0 and not engine.running


def test_an_arrival_waits_for_the_step_that_is_under_way_and_no_longer() -> None:
    long = Request(0, 100, 1000)
    (_, alone), _ = served([long, Request(5_000_000, 100, 2)])
    step = step_ms(H100, 1, 100 + 500) * 1000
    read = step_ms(H100, 1, 100 + 500, [(100, 0)]) * 1000
    assert alone.first - alone.arrived <= step + read + 50


def test_a_prefix_is_computed_once_and_forgotten_when_there_is_no_room() -> None:
    blocks = tuple(range(10))
    twice = [Request(0, 5000, 4, blocks), Request(2_000_000, 5000, 4, blocks)]
    (first, second), engine = served(twice, unit=512)
    assert first.cached == 0 and second.cached == 4999  # the last token is always computed
    assert engine.hit_tokens == 4999 and engine.kv_tokens == 0
    other = [Request(1_000_000, 5000, 4, tuple(range(100, 110)))]
    (_, _, again), _ = served([twice[0], *other, twice[1]], replace(H100, kv_tokens=6000), unit=512)
    assert again.cached < 4999
    off = served(twice, limits=Limits(prefix_caching=False), unit=512)[0][1]
    assert off.cached == 0


def test_a_prefix_in_use_is_shared_not_stored_twice() -> None:
    blocks = tuple(range(20))
    requests = [Request(index * 1000, 10_000, 400, blocks) for index in range(5)]
    small = replace(H100, kv_tokens=16_000)
    found, engine = served(requests, small, unit=512)
    assert engine.preemptions == 0 and len(found) == 5
    apart = [request._replace(blocks=()) for request in requests]
    assert served(apart, small, unit=512)[0][4].first > found[4].first * 3


def test_adapters_take_turns_when_there_are_more_than_slots() -> None:
    requests = [Request(index, 200, 50, (), f"adapter-{index % 3}") for index in range(9)]
    few, engine = served(requests, limits=Limits(max_loras=1, max_cpu_loras=4))
    many, _ = served(requests, limits=Limits(max_loras=3, max_cpu_loras=4))
    decode = sorted(one.finished for one in few)
    assert decode[-1] - decode[0] > 2 * 0.5e6 > max(one.finished for one in many) - min(one.finished for one in many)
    assert engine.adapter_loads == 3
    base = served([*requests, Request(9, 200, 50)], limits=Limits(max_loras=1, max_cpu_loras=4))[0][9]
    assert base.finished < max(one.finished for one in few), "the base model waits for nobody's adapter"


def test_everything_ends_and_nothing_is_left(seed: int = 5) -> None:
    requests = [
        one._replace(
            blocks=tuple(range(index % 7, index % 7 + -(-one.input // 512))), adapter=("", "a", "b")[index % 3]
        )
        for index, one in enumerate(arrivals(300, 30, seed))
    ]
    found, engine = served(requests, replace(H100, kv_tokens=20_000), Limits(max_num_seqs=16), unit=512)
    assert len(found) == 300 and all(one.arrived < one.first <= one.finished for one in found)
    assert (engine.private, engine.context, engine.in_flight, engine.adapters_active) == (0, 0, 0, 0)
    assert engine.decode_tokens >= sum(one.output - 1 for one in found)
    assert sum(engine.itl.values()) == engine.decode_tokens


def test_gaps_keep_their_order_and_three_percent() -> None:
    for value in (1, 7, 63, 64, 1000, 12_345, 999_999, 60_000_000):
        assert gap_us(bucket(value)) == pytest.approx(value, rel=0.03, abs=1)
    numbers = [bucket(value) for value in range(0, 5_000_000, 997)]
    assert numbers == sorted(numbers)
