"""What each strategy makes of a load over two hours: a table to read, and to see move when a formula does.

In flight are four seconds' worth of arrivals, against 10 for each replica; `slo` knows that one H100 takes more. Of `slo`, the first
quarter of an hour is its first: it has yet to learn whether slopes last.
"""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrix_compile.policy.autoscaling import Strategy, decide
from aibrix_compile.policy.observation import PoolState
from aibrix_compile.policy.schedules import DAYS, Schedule
from aibrix_compile.policy.windows import SECOND
from tests.policy.plant import APA, HPA, KPA, NOW, OLD, SLO, TRAFFIC, Plant, config, load, pool, seen

SECONDS = 7200
LOADS: dict[str, Callable[[int], int]] = {
    "step": lambda t: 10 if t < 900 else 60,
    "ramp": lambda t: 10 + min(max(0, t - 600), 1200) // 24,
    "spike": lambda t: 100 if 900 <= t < 930 else 10,
    "flash crowd": lambda t: 100 if 900 <= t < 1800 else 10,
    "diurnal": lambda t: round(30 - 20 * math.cos(2 * math.pi * t / SECONDS)),
    "sawtooth": lambda t: 10 + t % 600 // 12,
}


@pytest.mark.parametrize(
    ("name", "strategy", "cold", "most", "end", "reversals"),
    [
        ("step", HPA, 30, 24, 24, 0),
        ("step", KPA, 30, 24, 24, 0),
        ("step", APA, 30, 24, 24, 0),
        ("step", SLO, 30, 9, 7, 1),  # a step looks like a ramp until it ends
        ("step", SLO, 180, 12, 7, 1),
        ("ramp", HPA, 30, 23, 23, 0),  # 23.3 each 10: within the tolerance
        ("ramp", KPA, 180, 24, 24, 0),
        ("ramp", APA, 180, 24, 24, 0),
        ("ramp", SLO, 30, 7, 7, 0),
        ("ramp", SLO, 180, 7, 7, 0),
        ("spike", HPA, 30, 16, 4, 1),
        ("spike", KPA, 30, 24, 4, 1),
        ("spike", APA, 180, 8, 4, 1),  # no second step before the first has come
        ("spike", SLO, 180, 11, 2, 1),
        ("flash crowd", KPA, 180, 24, 4, 1),
        ("flash crowd", APA, 180, 24, 4, 1),
        ("flash crowd", SLO, 30, 16, 2, 1),
        ("diurnal", HPA, 180, 20, 5, 1),
        ("diurnal", KPA, 180, 20, 4, 1),
        ("diurnal", APA, 180, 19, 5, 1),
        ("diurnal", SLO, 30, 6, 2, 1),
        ("diurnal", SLO, 180, 6, 2, 1),
        ("sawtooth", KPA, 30, 23, 23, 22),  # each tooth is ten minutes long: all follow it
        ("sawtooth", SLO, 180, 8, 6, 22),
    ],
)
def test_scenario(name: str, strategy: Strategy, cold: int, most: int, end: int, reversals: int) -> None:
    load = LOADS[name]
    plant = Plant(config(strategy, pool(cold_start_seconds=cold, high=24)), 2, cold)
    sizes = plant.run(SECONDS, lambda second: 4 * load(second), load)
    ways = [before < after for before, after in pairwise(sizes) if before != after]
    assert (max(sizes[600:]), sizes[-1], sum(a != b for a, b in pairwise(ways))) == (most, end, reversals)


def _poisson(rate: float, seed: int) -> list[int]:
    """Arrivals of each second."""
    generator, found, due = random.Random(seed), [0] * SECONDS, 0.0
    while (due := due + generator.expovariate(rate)) < SECONDS:
        found[int(due)] += 1
    return found


@pytest.mark.parametrize(("strategy", "rate"), [(SLO, 3), (SLO, 38), (APA, 25), (KPA, 10), (KPA, 25)])
def test_noise_about_a_constant_load(strategy: Strategy, rate: int) -> None:
    """`slo` and `apa` stand still. `kpa` has no band, so at a boundary, here 4 and 10 replicas, it still moves, but not with each breath."""
    arrivals = _poisson(rate, 1)
    plant = Plant(config(strategy), 3)
    flight = [sum(arrivals[max(0, second - 3) : second + 1]) for second in range(SECONDS)]
    sizes = plant.run(SECONDS, lambda second: flight[second], lambda second: arrivals[second])
    changes = sum(before != after for before, after in pairwise(sizes[1800:]))
    assert changes <= (20 if strategy is KPA else 0)


@pytest.mark.parametrize("strategy", [SLO, APA, KPA])
@pytest.mark.parametrize(("before", "after"), [(70, 15), (30, 1)])
def test_down_is_a_staircase_that_begins_after_a_while(strategy: Strategy, before: int, after: int) -> None:
    plant = Plant(config(strategy, pool(high=40)), 3)
    plant.run(1200, lambda second: 4 * before, lambda second: before)
    first = plant.sizes[-1]
    noise = random.Random(1)
    plant.run(1200, lambda second: 4 * after + noise.randint(0, 2), lambda second: after)
    down = plant.sizes[1200:]
    assert all(sooner >= later for sooner, later in pairwise(down))
    assert set(down[:115]) == {first}, "nothing goes within a cold start of 120 s"
    assert down[-1] < first


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([HPA, KPA, APA, SLO]), st.integers(0, 12), st.integers(0, 4), st.booleans(), st.integers(0, 30))
def test_missing_data_never_scales_down(strategy: Strategy, ready: int, more: int, lost: bool, held: int) -> None:
    """Neither with pickers that are silent nor with replicas that are."""
    look = replace(
        seen(5),
        pools=(PoolState(ready + more, ready),),
        load=load(0, silent=ready) if lost else None,
        traffic=None,
        held=held,
    )
    assert decide(config(strategy, pool(high=20)), look, NOW, OLD).value >= ready + more


@pytest.mark.parametrize("strategy", [KPA, APA, SLO])
def test_half_the_pods_unready(strategy: Strategy) -> None:
    """Of eight replicas four have been starting for too long: the load is asked for beside them, and nothing goes."""
    one = pool(high=20)
    stuck = (240 * SECOND,) * 4
    look = replace(
        seen(0), pools=(PoolState(8, 4, stuck),), load=load(80), traffic=replace(TRAFFIC, rate=70.0, trend=70.0)
    )
    found = decide(config(strategy, one), look, NOW, OLD)
    assert found.value >= 8
    other = pool(name="b", high=20)
    both = replace(look, pools=(*look.pools, PoolState(0, 0)))
    assert decide(config(strategy, one, other), both, NOW, OLD).counts[1] >= 3  # where there are nodes


def test_no_quota() -> None:
    """Replicas that get no node: what they would cost is not asked for a second time, and the reason says that they are late."""
    plant = Plant(config(KPA, pool(high=20)), 2, cold=80_000)
    plant.run(200, lambda second: 60)
    assert plant.sizes[-1] == 6
    for _ in range(300):
        found = plant.tick(60)
    assert (found.value, found.limited_by) == (6, ("late",))


def test_a_budget_in_the_midst_of_a_ramp() -> None:
    plant = Plant(config(SLO, pool(high=24), max_gpus=8), 2)
    sizes = plant.run(SECONDS, lambda second: 0, LOADS["ramp"])
    assert max(sizes) == 4
    assert plant.tick(0, 60).limited_by == ("maxGPUs",)


@pytest.mark.parametrize(
    ("day", "hours"),
    [
        ("2026-03-28", 3),  # 1:30 to 4:30
        ("2026-03-29", 2),  # clocks go forward at 2:00
        ("2026-10-25", 4),  # and back at 3:00
    ],
)
def test_a_schedule_in_the_night_of_a_clock_change(day: str, hours: int) -> None:
    zone = ZoneInfo("Europe/Berlin")

    def ahead(seconds: int) -> int:
        offset = datetime.fromtimestamp(seconds, zone).utcoffset()
        assert offset is not None
        return int(offset.total_seconds())

    night = Schedule(DAYS, 90, 270, low=6, offset=ahead)
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(hours=2)
    counts = []
    for minute in range(0, 480, 5):
        now = int((begin + timedelta(minutes=minute)).timestamp()) * SECOND
        counts.append(decide(config(KPA, schedules=(night,)), seen(20, 2), now, replace(OLD, last=now)).value)
    assert counts.count(6) * 5 == hours * 60
    assert set(counts) == {2, 6}
