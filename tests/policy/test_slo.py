"""Engine-seconds by hand, and what becomes of them: corrections, speeds, missing data, the down-window."""

from dataclasses import replace
from math import inf

import pytest

from aibrix_compile.policy.observation import Memory, Observation, PoolState, Reading, Tokens, Traffic
from aibrix_compile.policy.pools import Pool
from aibrix_compile.policy.profile import TABLE, Profile
from aibrix_compile.policy.quantities import Total
from aibrix_compile.policy.slo import NONE, Objectives, Slo, request_seconds, speeds, terms, wish, work
from aibrix_compile.policy.windows import SECOND

# a step takes 10 ms + 1 ms for each sequence, whatever else; a token of a prompt 0.1 ms
HAND = Profile("hand", 10.0, 0.0, 0.0, 0.0, 100_000, "by hand", "none", step_ms=0.0, sequence_ms=1.0)
PROMPT = replace(HAND, weights_ms=0.0, token_ms=0.1, sequence_ms=0.0)
POOL = Pool("a", 1, 20, cold_start_seconds=100, profile=HAND)
NOW = 10_000 * SECOND
OLD = Memory(since=0, last=NOW - SECOND)
TRAFFIC = Traffic(rate=10.0, slope=0.0, burst=0.0, long_rate=10.0, long_count=9000, idle=0, trend=0.0)
TOKENS = Tokens(prompt=100, cached=0, output=100)
ITL = Objectives(itl_ms=25)  # 0.8 of it is 20 ms: a batch of 10


def seen(size: int = 4, **changes: object) -> Observation:
    return replace(Observation((PoolState(size, size),), traffic=TRAFFIC, tokens=TOKENS), **changes)  # type: ignore[arg-type]


def test_what_a_request_takes() -> None:
    # 100 steps of 20 ms, shared by 10
    assert request_seconds(HAND, TOKENS, ITL) == pytest.approx(100 * 0.020 / 10)
    # an answer of 100 tokens in 3125 ms: 0.8 of that is 25 ms a step, 15 of them
    assert request_seconds(HAND, TOKENS, Objectives(e2e_ms=3125)) == pytest.approx(100 * 0.025 / 15)
    # without an objective the KV cache is the limit: 0.85 x 100,000 / 150 = 566
    assert request_seconds(HAND, TOKENS, NONE) == pytest.approx(100 * 0.576 / 566)
    # an objective that not even one sequence keeps
    assert request_seconds(HAND, TOKENS, Objectives(itl_ms=5)) == pytest.approx(100 * 0.011)


def test_prefill() -> None:
    tokens = Tokens(1000, 0, None)
    assert request_seconds(PROMPT, tokens, ITL) == pytest.approx(0.1)
    assert request_seconds(PROMPT, Tokens(1000, 600, None), ITL) == pytest.approx(0.04)
    squared = replace(PROMPT, token_ms=0.0, attention_ms=1e-3)
    assert request_seconds(squared, tokens, ITL) == pytest.approx(0.5)  # in^2 / 2
    assert request_seconds(squared, Tokens(1000, 600, None), ITL) == pytest.approx(0.32)  # 400 x (600 + 200)


def test_need() -> None:
    found = wish(Slo(), ITL, (POOL,), seen(), 4, 0.0, OLD, NOW)
    assert found.least == pytest.approx(10 * 0.2 / 0.7)  # 2.86
    assert found.most == pytest.approx(found.least + 0.3)
    assert found.limited_by == ()
    assert "10 requests/s x 0.2 s x 1.00 / 0.7: 2.86 wanted" in found.words


@pytest.mark.parametrize(
    ("traffic", "seasonal", "arrivals"),
    [
        (TRAFFIC, 0.0, 10.0),
        (replace(TRAFFIC, slope=0.02), 0.0, 12.6),  # over 100 s of a cold start and the 30 s that the rate is old
        (replace(TRAFFIC, slope=0.02, trust=0.5), 0.0, 11.3),  # half of such slopes came true
        (replace(TRAFFIC, slope=0.2), 0.0, 20.0),  # at most as much again
        (replace(TRAFFIC, slope=-0.2), 0.0, 10.0),
        (replace(TRAFFIC, burst=20.0), 0.0, 17.0),  # an answer takes 2 s: the burst counts in full
        (replace(TRAFFIC, trend=10.0, burst=20.0), 0.0, 17.0),
        (TRAFFIC, 13.0, 13.0),
        (replace(TRAFFIC, burst=20.0), 13.0, 17.0),
    ],
)
def test_arrivals(traffic: Traffic, seasonal: float, arrivals: float) -> None:
    found = work(ITL, 0.7, (POOL,), seen(), traffic, TOKENS, seasonal)
    assert found.arrivals == pytest.approx(arrivals)


def test_a_burst_is_lost_in_long_answers() -> None:
    """3000 tokens of 20 ms are under way for a minute: half of what came in 30 s remains."""
    traffic = replace(TRAFFIC, trend=10.0, burst=30.0)
    found = work(ITL, 0.7, (POOL,), seen(), traffic, replace(TOKENS, output=3000), 0.0)
    assert found.burst == pytest.approx(0.85 * 20)


def test_what_waits_is_read_within_a_minute() -> None:
    pool = replace(POOL, profile=PROMPT)
    tokens = Tokens(1000, 400, 0.0)
    idle = replace(TRAFFIC, rate=0.0)
    found = work(ITL, 0.5, (pool,), seen(held=30, waiting=Reading(Total(20.0))), idle, tokens, 0.0)
    assert found.queued == 50
    assert found.need == pytest.approx(
        50 * 600 * 0.1e-3 / 60 / 0.5
    )  # milliseconds are seconds before a rate meets them


@pytest.mark.parametrize(
    ("itl_ms", "running", "corr"),
    [
        (None, 40.0, 1.0),
        (20.0, None, 1.0),
        (20.0, 40.0, 1.0),  # 10 each: 20 ms predicted
        (24.0, 40.0, 1.2),
        (60.0, 40.0, 1.5),
        (1.0, 40.0, 0.7),
        (20.0, 0.0, 1.0),
    ],
)
def test_corr(itl_ms: float | None, running: float | None, corr: float) -> None:
    look = seen(itl_ms=itl_ms, running=None if running is None else Reading(Total(running)))
    assert work(ITL, 0.7, (POOL,), look, TRAFFIC, TOKENS, 0.0).corr == pytest.approx(corr)


def test_prefills_explain_a_slow_itl() -> None:
    """Four replicas that get 2.5 prompts of 0.1 s a second spend a quarter of their time on them."""
    pool = replace(POOL, profile=replace(HAND, token_ms=0.001, attention_ms=0.0))
    tokens = Tokens(100_000, 0, 100)
    look = seen(itl_ms=20.0 / 0.75, running=Reading(Total(40.0)))
    assert work(ITL, 0.7, (pool,), look, TRAFFIC, tokens, 0.0).corr == pytest.approx(1.0, abs=0.01)


def test_a_higher_rate_is_never_taken_for_prefills_alone() -> None:
    """One replica that gets more prompts than it can read: its ITL says nothing more of them."""
    pool = replace(POOL, profile=replace(HAND, token_ms=0.001, attention_ms=0.0))
    tokens, look = Tokens(100_000, 0, 100), seen(1, itl_ms=40.0, running=Reading(Total(10.0)))
    half, most = (work(ITL, 0.7, (pool,), look, replace(TRAFFIC, rate=rate), tokens, 0.0) for rate in (5.0, 9.0))
    assert half.corr == most.corr == pytest.approx(1.0, abs=0.01)
    assert most.need == pytest.approx(half.need * 9 / 5)


def test_speeds() -> None:
    slow = replace(
        POOL, name="b", profile=replace(HAND, weights_ms=15.0)
    )  # a batch of 5 only: 4 ms a token instead of 2
    assert speeds((POOL, slow), TOKENS, ITL) == pytest.approx((1.0, 0.5))
    assert speeds((POOL, slow), None, ITL) == (1.0, 1.0)
    real = tuple(Pool(name, 0, 1, profile=TABLE[name]) for name in ("h100/8b", "a100/8b", "l4/8b"))
    h100, a100, l4 = speeds(real, Tokens(1200, 0, 250), Objectives(itl_ms=80))
    assert h100 == 1.0 and 0.3 < a100 < 0.7 and 0 < l4 < 0.1


def test_down_needs_a_window_and_twice_the_cold_start() -> None:
    def most(memory: Memory, cold: int = 100) -> float:
        return wish(Slo(), ITL, (replace(POOL, cold_start_seconds=cold),), seen(), 4, 0.0, memory, NOW).most

    assert most(OLD) == pytest.approx(3.157, abs=0.001)
    assert most(Memory()) == inf
    assert most(replace(OLD, up=NOW - 299 * SECOND)) == inf
    assert most(replace(OLD, up=NOW - 300 * SECOND)) < 4
    assert most(replace(OLD, up=NOW - 300 * SECOND), cold=151) == inf
    assert most(replace(OLD, peaks=OLD.peaks.push(NOW - 299 * SECOND, 9.0, SECOND))) == pytest.approx(9.3)
    assert most(replace(OLD, peaks=OLD.peaks.push(NOW - 300 * SECOND, 9.0, SECOND))) < 4
    starting = seen(pools=(PoolState(4, 0, (SECOND,) * 4),))
    assert wish(Slo(), ITL, (POOL,), starting, 4, 0.0, OLD, NOW).most == inf
    found = wish(Slo(), ITL, (POOL,), seen(6), 6, 0.0, Memory(), NOW)
    assert found.limited_by == ("downWindow",)


def test_a_falling_need_counts_for_what_it_has_become() -> None:
    """9 replicas 250 s ago; since then the rate falls by 0.05 requests a second, which are 0.0143 replicas. Half of the window of 300 s
    counts in full."""
    memory = replace(OLD, peaks=OLD.peaks.push(NOW - 250 * SECOND, 9.0, SECOND))
    falling = replace(TRAFFIC, slope=-0.05)
    for trust in (1.0, 0.5, 0.0):
        look = seen(9, traffic=replace(falling, trust=trust))
        most = 9 - (250 - 150) * trust * 0.05 * 0.2 / 0.7
        assert wish(Slo(), ITL, (POOL,), look, 9, 0.0, memory, NOW).most == pytest.approx(most + 0.3)


def test_missing() -> None:
    for look, words in (
        (seen(traffic=None), "arrivals unknown"),
        (seen(tokens=None), "requests' lengths unknown"),
    ):
        found = wish(Slo(), ITL, (POOL,), look, 4, 0.0, OLD, NOW)
        assert (found.least, found.most, found.limited_by, found.words) == (0, inf, ("missing",), words)
        assert found.memory == OLD
        assert terms(Slo(), ITL, (POOL,), look, 0.0) == {}
    pool = replace(POOL, profile=PROMPT)
    young = seen(tokens=Tokens(7000, 0, None), traffic=TRAFFIC)
    found = wish(Slo(), ITL, (pool,), young, 4, 0.0, OLD, NOW)
    assert found.least == pytest.approx(10)  # prefill alone: a lower bound
    assert (found.most, found.limited_by) == (inf, ("missing",))


def test_terms_are_the_arithmetic() -> None:
    found = terms(Slo(), ITL, (POOL,), seen(), 0.0)
    assert list(found)[:5] == ["rate", "trust", "growth", "burst", "seasonal"]
    assert found["need"] == pytest.approx(found["arrivals"] * found["request seconds"] * found["corr"] / 0.7)
