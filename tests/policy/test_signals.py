"""From samples to an observation: rates, bursts, trends, means, and what is missing."""

import pytest

from aibrix_compile.policy.observation import Gauge, Reading, reading
from aibrix_compile.policy.quantities import PerReplica, Total
from aibrix_compile.policy.signals import Signals
from aibrix_compile.policy.windows import SECOND

POOLS = ()


def run(rates: list[tuple[int, int]], start: int = 1000) -> tuple[Signals, int]:
    """So many seconds with so many requests in each, one look a second."""
    signals, now = Signals(start * SECOND), start * SECOND
    for seconds, rate in rates:
        for _ in range(seconds):
            now += SECOND
            signals.arrived(now, rate, 100 * rate, 40 * rate)
    return signals, now


def test_a_steady_rate() -> None:
    signals, now = run([(1200, 5)])
    traffic = signals.observe(now, POOLS).traffic
    assert traffic
    assert (traffic.rate, traffic.slope, traffic.burst, traffic.long_rate) == (5.0, 0.0, 5.0, 5.0)
    assert (traffic.long_count, traffic.idle) == (4500, 0)


def test_a_trend_and_a_burst() -> None:
    signals, now = run([(1000, 2), (60, 5)])
    traffic = signals.observe(now, POOLS).traffic
    assert traffic
    assert (traffic.rate, traffic.slope) == (5.0, 3 / 150)  # 3 more, between middles that lie 150 s apart
    signals, now = run([(600, 2), (30, 11), (860, 2)])
    assert (
        found := signals.observe(now, POOLS).traffic
    ) and found.burst == 2 + 9 * 0.9  # above the mean of five minutes
    signals, now = run([(600, 2), (30, 11), (931, 2)])
    assert (found := signals.observe(now, POOLS).traffic) and found.burst == 2.0


def test_a_slope_is_known_after_two_minutes() -> None:
    for seconds, slope in ((119, 0.0), (120, 3 / 60)):
        signals, now = run([(seconds - 60, 2), (60, 5)])
        assert (found := signals.observe(now, POOLS).traffic) and found.slope == pytest.approx(slope)


def test_the_past_is_kept_in_slots_that_were_heard() -> None:
    signals, now = run([(250, 1), (300, 2), (300, 3)], start=250)
    assert signals.history == {1: pytest.approx(4 / 3, abs=0.01), 2: pytest.approx(7 / 3, abs=0.01)}
    signals.arrived(now + 100 * SECOND, 0)  # 100 s of silence: who knows what came
    signals.arrived(now + 300 * SECOND, 0)
    assert list(signals.history) == [1, 2]
    assert Signals(0, history={7: 1.0}).history == {7: 1.0}


def test_the_first_request_is_no_storm() -> None:
    signals, now = run([(1, 1)])
    traffic = signals.observe(now, POOLS).traffic
    assert traffic and traffic.rate == 0.1
    signals, now = run([(20, 3)])
    assert (found := signals.observe(now, POOLS).traffic) and found.rate == 3.0 and found.slope == 0.0


def test_idle_time_and_silent_pickers() -> None:
    signals, now = run([(5, 1), (100, 0)])
    assert (found := signals.observe(now, POOLS).traffic) and found.idle == 100 * SECOND
    assert signals.observe(now + 10 * SECOND, POOLS).traffic
    assert signals.observe(now + 10 * SECOND + 1, POOLS).traffic is None
    signals, now = run([(7, 0)])
    assert (found := signals.observe(now, POOLS).traffic) and found.idle == 7 * SECOND


def test_means_of_requests() -> None:
    signals, now = run([(10, 2)])
    tokens = signals.observe(now, POOLS).tokens
    assert tokens and (tokens.prompt, tokens.cached, tokens.output) == (100.0, 40.0, None)
    signals.answered(now, 3, 90)
    signals.streamed(now, 80, 1600.5)
    seen = signals.observe(now, POOLS)
    assert seen.tokens and seen.tokens.output == 30.0
    assert seen.itl_ms == pytest.approx(20.00625)
    later = signals.observe(now + 2000 * SECOND, POOLS)  # the last known ones stay; a latency does not
    assert later.tokens == seen.tokens and later.itl_ms is None
    assert Signals(0).observe(0, POOLS).tokens is None


def test_gauges_over_windows() -> None:
    signals = Signals(0)
    for second in range(60):
        signals.gauges(second * SECOND, Reading(Total(10.0 if second < 54 else 40.0), 1.0))
    load = signals.observe(59 * SECOND, POOLS).load
    assert load
    assert (load.now.total, load.stable.total, load.panic.total) == (Total(40.0), Total(13.0), Total(40.0))
    assert load.stable.silent == 1.0
    signals.gauges(60 * SECOND, None)
    assert signals.observe(60 * SECOND, POOLS).load is None


def test_a_second_without_a_sample_is_not_a_zero() -> None:
    signals = Signals(0)
    for second in (0, 3, 50):
        signals.gauges(second * SECOND, Reading(Total(9.0)), Reading(Total(4.0)), Reading(Total(2.0)))
    seen = signals.observe(50 * SECOND, POOLS)
    assert seen.load and seen.load.stable.total == Total(9.0)
    assert seen.running == Reading(Total(4.0)) and seen.waiting == Reading(Total(2.0))


def test_a_reading_counts_who_is_silent() -> None:
    gauges = [Gauge(3.0, 0), Gauge(4.0, 5 * SECOND), Gauge(100.0, 5 * SECOND + 1)]
    found = reading(gauges, 4)
    assert found == Reading(Total(7.0), 2)
    assert found.most(PerReplica(10)) == Total(27.0)
    assert reading(gauges, 4, held=5) == Reading(Total(12.0), 2)
    assert reading([], 0) == Reading(Total(0.0), 0)
