"""Decisions as a whole: golden numbers, scenarios over time with a plant that answers, and what must hold for any input."""

from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrix_compile.policy.apa import Apa
from aibrix_compile.policy.autoscaling import Config, Strategy, decide, terms
from aibrix_compile.policy.observation import Load, Memory, Observation, PoolState, Reading, Tokens, Traffic
from aibrix_compile.policy.quantities import PerReplica, Total
from aibrix_compile.policy.schedules import DAYS, Schedule
from aibrix_compile.policy.slo import Objectives
from aibrix_compile.policy.windows import SECOND
from tests.policy.plant import (
    A100,
    APA,
    HPA,
    KPA,
    NOW,
    OLD,
    SLO,
    TOKENS,
    TRAFFIC,
    Plant,
    config,
    load,
    pool,
    seen,
)

# --- one look


@pytest.mark.parametrize(
    ("strategy", "total", "burst", "ready", "value"),
    [
        (KPA, 30, 30, 4, 3),
        (KPA, 20, 60, 3, 6),
        (KPA, 20, 50, 3, 2),
        (KPA, 5, 5, 4, 2),
        (KPA, 31.5, 31.5, 3, 4),
        (replace(KPA, tolerance=0.1), 31.5, 31.5, 3, 3),
        (Apa("kv_cache_usage", PerReplica(0.5)), 4 * 0.9, 4 * 0.9, 4, 8),
        (Apa("kv_cache_usage", PerReplica(0.5)), 4 * 0.55, 4 * 0.55, 4, 4),
        (Apa("kv_cache_usage", PerReplica(0.5)), 4 * 0.56, 4 * 0.56, 4, 5),
        (Apa("kv_cache_usage", PerReplica(0.5)), 8 * 0.2, 8 * 0.2, 8, 4),
        (Apa("kv_cache_usage", PerReplica(1)), 2 * 3, 2 * 3, 2, 4),
        (HPA, 6 * 18, 6 * 18, 6, 11),
    ],
)
def test_golden(strategy: Strategy, total: float, burst: float, ready: int, value: int) -> None:
    look = seen(total, ready, load=load(total, burst=burst))
    assert decide(config(strategy), look, NOW, OLD).value == value


@pytest.mark.parametrize(
    ("setup", "look", "value", "limited_by", "reason"),
    [
        (
            config(KPA, max_gpus=12),
            seen(68, 4),
            6,
            ("maxGPUs",),
            "4 ready: requests_in_flight 68 over all against 10 each: 7 wanted; 6 by budget of 12 GPUs",
        ),
        (config(KPA, max_cost_per_hour=15.5), seen(68, 4), 5, ("maxCostPerHour",), "5 by budget of 15.5 an hour"),
        (config(KPA, max_gpus=4), seen(68, 4), 2, ("maxGPUs",), "2 by budget of 4 GPUs"),
        (config(KPA, pool(high=5)), seen(68, 4), 5, ("max",), "5 by maximum"),
        (config(KPA, pool(low=3)), seen(0, 4), 3, ("rate", "min"), "3 by rate limit, minimum"),
        (config(KPA, warm_pool=2), seen(68, 4), 9, ("warmPool",), "7 wanted; 9 by warm pool of 2"),
        (config(KPA, warm_pool=2, objectives=Objectives(ttft_ms=120_000)), seen(68, 4), 7, (), "; 7"),
        (config(KPA), seen(40, 4), 4, (), "4 kept"),
        (config(KPA), seen(0, 1), 1, ("min",), "1 kept by minimum"),  # the last one stays
        (config(KPA), seen(0, 4, load=None), 4, ("missing",), "requests_in_flight unknown; 4 kept by missing data"),
        (
            config(KPA),
            seen(0, 4, load=load(0, silent=4)),
            4,
            ("missing",),
            "4 ready, 4 silent: requests_in_flight unknown",
        ),
        (config(APA), seen(0, 4, load=None), 4, ("missing",), "4 kept by missing data"),
        (config(HPA), seen(0, 4, load=None), 4, ("missing",), "4 kept by missing data"),
        (config(SLO), seen(0, 4, traffic=None), 4, ("missing",), "4 ready: arrivals unknown; 4 kept by missing data"),
        (config(SLO), seen(0, 4, tokens=None), 4, ("missing",), "4 ready: requests' lengths unknown; 4 kept"),
        (
            config(KPA, max_gpus=4),
            seen(0, 4, load=None),
            2,
            ("missing", "maxGPUs"),
            "2 by missing data, budget of 4 GPUs",
        ),
    ],
)
def test_one_look(setup: Config, look: Observation, value: int, limited_by: tuple[str, ...], reason: str) -> None:
    found = decide(setup, look, NOW, OLD)
    assert (found.value, found.limited_by) == (value, limited_by)
    assert reason in found.reason
    assert sum(found.counts) == found.value


@pytest.mark.parametrize("strategy", [HPA, KPA, APA])
def test_all_replicas_start(strategy: Strategy) -> None:
    """Nothing serves, so nobody has a load: what starts is waited for."""
    look = replace(seen(0), pools=(PoolState(4, 0, (SECOND,) * 4),), traffic=replace(TRAFFIC, rate=0.0))
    found = decide(config(strategy), look, NOW, OLD)
    assert found.value == 4
    assert "0 ready, 4 starting" in found.reason


def test_what_starts_is_counted_once() -> None:
    look = replace(seen(60), pools=(PoolState(6, 2, (SECOND,) * 4),))
    for strategy in (KPA, HPA, APA):
        assert decide(config(strategy), look, NOW, OLD).value == 6
    need = decide(config(SLO), seen(0, 1, traffic=replace(TRAFFIC, rate=40.0)), NOW, OLD).value
    assert need > 2
    still = replace(seen(0, traffic=replace(TRAFFIC, rate=40.0)), pools=(PoolState(need, 1, (SECOND,) * (need - 1)),))
    assert decide(config(SLO), still, NOW, OLD).value == need


def test_replicas_that_still_go_do_not_count() -> None:
    look = replace(seen(20), pools=(PoolState(2, 8),))
    assert look.ready == 2
    assert decide(config(APA), look, NOW, OLD).value == 2  # eight of 2.5 each would ask for fewer


def test_a_warm_pool_is_not_counted_as_needed() -> None:
    for strategy in (KPA, APA):
        look, sizes, memory = seen(40, 4), [], OLD
        for second in range(3):
            found = decide(config(strategy, warm_pool=2), look, NOW + second * SECOND, memory)
            look, memory = seen(40, found.value), found.memory
            sizes.append(found.value)
        assert sizes == [6, 6, 6]
    one = decide(config(APA, warm_pool=1), seen(10, 1), NOW, OLD)
    assert one.value == 2


def test_schedules_are_bounds_of_the_service() -> None:
    night = Schedule(("Fri",), 0, 360, high=3)
    assert decide(config(KPA, schedules=(night,)), seen(68, 4), NOW, OLD).value == 3
    busy = Schedule(("Fri",), 0, 360, low=8)
    found = decide(config(KPA, schedules=(busy,)), seen(20, 2), NOW, OLD)
    assert (found.value, found.limited_by) == (8, ("schedule",))
    assert decide(config(KPA, schedules=(busy,), max_gpus=10), seen(20, 2), NOW, OLD).limited_by == (
        "schedule",
        "maxGPUs",
    )
    assert decide(config(KPA, schedules=(busy,)), seen(20, 8), NOW, OLD).value == 8
    later = NOW + 6 * 3600 * SECOND
    assert (
        decide(config(KPA, schedules=(busy,)), seen(20, 8), later, replace(OLD, last=later)).value == 4
    )  # half at once


def test_configs_that_can_not_be() -> None:
    with pytest.raises(ValueError, match="without pools"):
        Config((), KPA)
    with pytest.raises(ValueError, match="hpa scales one pool"):
        config(HPA, pool(), pool(name="b"))
    with pytest.raises(ValueError, match="profile of pool b"):
        config(SLO, pool(), pool(name="b", profile=None))


# --- zero

QUIET = replace(TRAFFIC, rate=0.0, burst=0.0, long_rate=0.0, long_count=0, idle=900 * SECOND)
TO_ZERO = config(KPA, scale_to_zero_after_seconds=900)


@pytest.mark.parametrize(
    ("setup", "look", "value"),
    [
        (TO_ZERO, seen(0, 1, traffic=QUIET), 0),
        (TO_ZERO, seen(0, 3, traffic=QUIET), 0),
        (replace(TO_ZERO, strategy=SLO), seen(0, 3, traffic=QUIET), 0),
        (replace(TO_ZERO, warm_pool=1), seen(0, 3, traffic=QUIET), 0),
        (TO_ZERO, seen(0, 1, traffic=replace(QUIET, idle=900 * SECOND - 1)), 1),
        (TO_ZERO, seen(0, 1, traffic=QUIET, held=1), 1),
        (TO_ZERO, seen(0, 1, traffic=QUIET, in_flight=Total(1.0)), 1),
        (TO_ZERO, seen(0, 1, traffic=QUIET, in_flight=None), 1),
        (TO_ZERO, seen(0, 1, traffic=None), 1),
        (config(KPA), seen(0, 1, traffic=QUIET), 1),
        (replace(TO_ZERO, pools=(pool(), pool(1, name="b"))), seen(0, 1, 1, traffic=QUIET), 1),
        (replace(TO_ZERO, pools=(pool(), pool(1, name="b"))), seen(0, 0, 4, traffic=QUIET), 2),  # as by load alone
        (replace(TO_ZERO, schedules=(Schedule(DAYS, 0, 0, low=2),)), seen(0, 3, traffic=QUIET), 2),
        # at zero: anything that comes wakes it, a scaler that starts anew does not
        (TO_ZERO, seen(0, 0, traffic=QUIET), 0),
        (TO_ZERO, seen(0, 0, traffic=replace(QUIET, idle=0)), 0),
        (TO_ZERO, seen(0, 0, traffic=None, load=None), 0),
        (TO_ZERO, seen(0, 0, traffic=QUIET, held=1), 1),
        (TO_ZERO, seen(0, 0, traffic=None, load=None, held=1), 1),
        (TO_ZERO, seen(25, 0, traffic=QUIET, held=25), 3),  # what is held is the load
        (TO_ZERO, seen(0, 0, traffic=replace(QUIET, rate=0.1)), 1),
        (replace(TO_ZERO, strategy=SLO), seen(0, 0, traffic=QUIET, held=1, tokens=None), 1),
    ],
)
def test_zero(setup: Config, look: Observation, value: int) -> None:
    assert decide(setup, look, NOW, OLD).value == value


def test_waking_takes_the_cheapest_pool() -> None:
    pools = (pool(cost_per_hour=9.0), pool(name="b", cost_per_hour=1.0), pool(name="c", cost_per_hour=1.0, spot=True))
    setup = config(KPA, *pools, scale_to_zero_after_seconds=900)
    assert decide(setup, seen(0, 0, 0, 0, traffic=QUIET, held=1), NOW, OLD).counts == (0, 0, 1)


# --- seasons


def history(past: float, now: float) -> dict[int, float]:
    """The same `past` rate for two days until six hours ago, then `now`; slots of five minutes."""
    slot = NOW // SECOND // 300
    return {each: now if each >= slot - 36 else past for each in range(slot - 600, slot)}


def test_a_season_is_a_floor_of_slo() -> None:
    setup, look = config(SLO, seasonal=True), seen(0, 2)
    assert decide(setup, look, NOW, OLD).value == 2
    found = decide(setup, look, NOW, OLD, history(40.0, 40.0))
    assert (found.value, found.limited_by) == (4, ("seasonal",))
    assert decide(setup, look, NOW, OLD, history(40.0, 10.0)).value == 2  # it did not come: the past is not believed
    assert decide(replace(setup, seasonal=False), look, NOW, OLD, history(40.0, 40.0)).value == 2


def test_a_season_is_worth_what_requests_were_worth() -> None:
    """20 in flight at 10 requests a second: 40 requests a second will be 80 in flight."""
    look = seen(20, 2)
    found = decide(config(KPA, seasonal=True), look, NOW, OLD, history(40.0, 40.0))
    assert (found.value, found.limited_by) == (8, ("seasonal",))
    few = replace(look, traffic=replace(TRAFFIC, long_count=29))
    assert decide(config(KPA, seasonal=True), few, NOW, OLD, history(40.0, 40.0)).value == 2
    latency = config(Apa("ttft", PerReplica(500)), seasonal=True)
    assert decide(latency, seen(1000, 2), NOW, OLD, history(40.0, 40.0)).value == 2


def test_a_season_wakes_a_service_before_it_is_needed() -> None:
    setup = config(SLO, seasonal=True, scale_to_zero_after_seconds=900)
    look = seen(0, 0, traffic=QUIET)
    assert decide(setup, look, NOW, OLD).value == 0
    assert decide(setup, look, NOW, OLD, history(20.0, 20.0)).value == 2


# --- pools


def test_pools_with_prices() -> None:
    dear = pool(high=4, cost_per_hour=12.0, cold_start_seconds=60)
    cheap = pool(name="b", high=3, cost_per_hour=2.0, cold_start_seconds=60)
    setup, memory, counts = config(KPA, dear, cheap), OLD, (0, 1)
    steps = []
    for step, total in enumerate((10, 30, 65, 65, 20, 20)):
        now = NOW + step * 61 * SECOND
        memory = replace(memory, last=now)
        look = replace(seen(total, *counts), in_flight=None)
        found = decide(setup, look, now, memory)
        counts, memory = (found.counts[0], found.counts[1]), found.memory
        steps.append(counts)
    # 3 of one pool are a panic of 3 against 1; then the next pool, and it is the first to go
    assert steps == [(0, 1), (0, 3), (4, 3), (4, 3), (0, 3), (0, 2)]


def test_slo_sizes_each_pool_by_its_profile() -> None:
    fast = pool(name="h100", cost_per_hour=6.0, high=2)
    slow = pool(name="a100", cost_per_hour=1.5, high=3, profile=A100)
    setup = config(SLO, fast, slow)
    busy = seen(0, 0, 1, traffic=replace(TRAFFIC, rate=40.0))
    found = decide(setup, busy, NOW, OLD)
    assert found.counts == (2, 3)  # the cheaper for its speed to its limit first
    figures = terms(setup, busy, NOW, OLD)
    assert figures["need"] > 2 > figures["capacity"]


def test_replicas_that_never_start_are_spilled() -> None:
    spot, steady = pool(name="spot", spot=True), pool(name="steady")
    look = replace(seen(30), pools=(PoolState(3, 1, (240 * SECOND, 240 * SECOND)), PoolState(0, 0)))
    assert decide(config(KPA, spot, steady), look, NOW, OLD).counts == (3, 2)
    found = decide(config(KPA, spot), replace(look, pools=look.pools[:1]), NOW, OLD)
    assert (found.counts, found.limited_by) == ((3,), ("late",))
    assert "3 kept by replicas that do not start" in found.reason


# --- over time


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([KPA, APA, HPA, SLO]),
    st.floats(0, 150),
    st.integers(0, 60),
    st.integers(1, 15),
    st.integers(0, 2),
)
def test_a_constant_load_moves_nothing_for_long(
    strategy: Strategy, total: float, rate: int, size: int, warm: int
) -> None:
    plant = Plant(config(strategy, warm_pool=0 if strategy is HPA else warm), size)
    sizes = plant.run(2400, lambda second: total, lambda second: rate)
    later = sizes[1800:]
    assert len(set(later)) == 1
    ups = [second for second in range(1, 2400) if sizes[second] > sizes[second - 1]]
    downs = [second for second in range(1, 2400) if sizes[second] < sizes[second - 1]]
    assert not ups or not downs or max(ups) < min(downs)  # never down and up again


@pytest.mark.parametrize(("strategy", "most"), [(KPA, 14), (APA, 14), (SLO, 8)])
def test_a_ramp_is_followed_up_and_not_down_at_once(strategy: Strategy, most: int) -> None:
    """From 20 to 140 in flight, 10 to 70 requests a second, over 20 minutes."""
    plant = Plant(config(strategy), 2)
    sizes = plant.run(1500, lambda second: 20 + min(second, 1200) / 10, lambda second: 10 + min(second, 1200) // 20)
    assert all(later >= sooner for sooner, later in pairwise(sizes[300:]))
    assert sizes[-1] >= most


def test_a_burst_makes_kpa_panic_and_never_shrink_in_it() -> None:
    plant = Plant(config(KPA), 2)
    plant.run(120, lambda second: 18)
    sizes = plant.run(30, lambda second: 100)[-30:]
    assert sizes[0] == 4 and sizes[5] == 10  # the panic window is six seconds long
    assert sizes == sorted(sizes)
    held = plant.run(55, lambda second: 5)[-55:]
    assert set(held) == {sizes[-1]}
    assert plant.run(400, lambda second: 5)[-1] == 1


def test_lost_metrics_hold_the_number() -> None:
    for strategy in (KPA, APA):
        plant = Plant(config(strategy), 4)
        plant.run(400, lambda second: 38)
        for _ in range(300):
            found = plant.tick(0, silent=True)
            assert found.value == 4
        assert "missing" in found.limited_by
        assert {plant.tick(0).value for _ in range(59)} == {4}  # and evidence must come anew


def test_a_load_that_flaps_moves_slo_once() -> None:
    """Two minutes of 40 requests a second, two of 5, and so on for an hour."""
    plant = Plant(config(SLO), 2)
    sizes = plant.run(3600, lambda second: 0, lambda second: 40 if second // 120 % 2 else 5)
    assert len(set(sizes[1200:])) == 1 and sizes[-1] >= 5
    ups = [before < after for before, after in pairwise(sizes) if before != after]
    assert ups == sorted(ups, reverse=True)  # up, and once down when it knows that the slope did not last


def test_an_idle_service_goes_and_comes_back() -> None:
    plant = Plant(replace(TO_ZERO, strategy=SLO), 2)
    plant.run(600, lambda second: 0, lambda second: 3)
    sizes = plant.run(1000, lambda second: 0)[-1000:]
    assert sizes[897:902] == [1, 1, 0, 0, 0] or sizes[898:901] == [1, 0, 0]
    assert plant.tick(1, 1).value == 1


# --- whatever comes

readings = st.builds(lambda total, silent: Reading(Total(total), silent), st.floats(0, 500), st.integers(0, 4))
loads = st.one_of(st.none(), st.builds(Load, readings, readings, readings, readings))
traffics = st.builds(
    Traffic,
    st.floats(0, 100),
    st.floats(-1, 1),
    st.floats(0, 100),
    st.floats(0.1, 100),
    st.integers(0, 1000),
    st.integers(0, 2000 * SECOND),
)
states = st.builds(
    lambda ready, more, ages: PoolState(ready + more, ready, tuple(ages)),
    st.integers(0, 12),
    st.integers(0, 4),
    st.lists(st.integers(0, 600 * SECOND), max_size=4),
)
looks = st.builds(
    Observation,
    st.tuples(states, states),
    loads,
    st.one_of(st.none(), traffics),
    st.one_of(st.none(), st.floats(0, 100).map(Total)),
    st.integers(0, 50),
    st.one_of(st.none(), readings),
    st.one_of(st.none(), readings),
    st.one_of(st.none(), st.just(TOKENS), st.just(Tokens(500, 100, None))),
    st.one_of(st.none(), st.floats(1, 200)),
)
memories = st.builds(
    lambda since, up, panic, size: Memory(since=NOW - since, last=NOW, up=NOW - up, panic=panic, panic_size=size),
    st.integers(0, 900 * SECOND),
    st.integers(0, 900 * SECOND),
    st.one_of(st.none(), st.integers(0, 90 * SECOND).map(lambda ago: NOW - ago)),
    st.integers(0, 9),
)
setups = st.builds(
    lambda strategy, low, high, gpus, money, zero, warm, schedules: config(
        strategy,
        pool(low, low + high),
        pool(0, 5, name="b", cost_per_hour=1.0, gpus=1, profile=A100),
        max_gpus=gpus and gpus + 2 * low,
        max_cost_per_hour=money and money + 3.0 * low,
        scale_to_zero_after_seconds=zero,
        warm_pool=warm,
        schedules=schedules,
    ),
    st.sampled_from([KPA, APA, SLO, replace(KPA, tolerance=0.1)]),
    st.integers(0, 3),
    st.integers(0, 10),
    st.integers(0, 20),
    st.integers(0, 20).map(float),
    st.sampled_from([0, 600]),
    st.integers(0, 2),
    st.sampled_from([(), (Schedule(DAYS, 0, 0, low=2, high=9),), (Schedule(DAYS, 0, 0, low=6),)]),
)


@settings(max_examples=300, deadline=None)
@given(setups, looks, memories)
def test_bounds_hold(setup: Config, look: Observation, memory: Memory) -> None:
    found = decide(setup, look, NOW, memory)
    pools = setup.pools
    assert all(one.low <= count <= one.high for one, count in zip(pools, found.counts, strict=True))
    assert found.value == sum(found.counts)
    if setup.max_gpus:
        assert sum(one.gpus * count for one, count in zip(pools, found.counts, strict=True)) <= setup.max_gpus
    if setup.max_cost_per_hour:
        cost = sum((one.cost_per_hour or 0) * count for one, count in zip(pools, found.counts, strict=True))
        assert cost <= setup.max_cost_per_hour + 1e-9
    for one in setup.schedules:
        if one.high is not None:
            assert found.value <= max(one.high, sum(each.low for each in pools))
        limits = {"max", "maxGPUs", "maxCostPerHour", "late"} & set(found.limited_by)
        assert found.value >= (one.low or 0) or limits
    if found.value == 0 and not setup.max_gpus and not setup.max_cost_per_hour:
        assert not look.held or "max" in found.limited_by or "late" in found.limited_by
    assert "\n" not in found.reason and found.reason.isascii()


@settings(max_examples=200, deadline=None)
@given(setups, looks, memories)
def test_equal_arguments_equal_results(setup: Config, look: Observation, memory: Memory) -> None:
    first = decide(setup, look, NOW, memory)
    figures = terms(setup, look, NOW, memory)
    assert decide(setup, look, NOW, memory) == first
    assert figures["value"] == first.value
    assert list(figures) == list(terms(setup, look, NOW, memory))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([HPA, KPA, APA, replace(KPA, tolerance=0.1)]),
    states,
    st.integers(0, 3),
    st.floats(0, 300),
    st.floats(0, 100),
    memories,
    st.integers(0, 2),
)
def test_more_load_never_means_fewer_replicas(
    strategy: Strategy, state: PoolState, silent: int, total: float, more: float, memory: Memory, warm: int
) -> None:
    setup = config(strategy, warm_pool=0 if strategy is HPA else warm)
    values = []
    for each in (total, total + more):
        look = replace(seen(each), pools=(state,), load=load(each, min(silent, state.ready)), traffic=None)
        values.append(decide(setup, look, NOW, memory).value)
    assert values[0] <= values[1]


@settings(max_examples=200, deadline=None)
@given(states, traffics, st.floats(0, 50), st.one_of(st.none(), st.floats(1, 200)), memories)
def test_more_arrivals_never_mean_fewer_replicas(
    state: PoolState, traffic: Traffic, more: float, itl_ms: float | None, memory: Memory
) -> None:
    running = Reading(Total(30.0))
    values = []
    for each in (traffic, replace(traffic, rate=traffic.rate + more, burst=traffic.burst + more)):
        look = replace(seen(0), pools=(state,), traffic=each, itl_ms=itl_ms, running=running)
        values.append(decide(config(SLO), look, NOW, memory).value)
    assert values[0] <= values[1]


@settings(max_examples=200, deadline=None)
@given(loads, states, memories)
def test_kpa_never_shrinks_in_a_panic(found: Load | None, state: PoolState, memory: Memory) -> None:
    look = replace(seen(0), pools=(state,), load=found)
    after = decide(config(KPA), look, NOW, memory)
    if after.memory.panic is not None and found is not None:
        assert after.value >= min(state.size, 20)


def test_nothing_is_endless() -> None:
    assert decide(config(KPA), seen(1e12, 4), NOW, OLD).value == 20
    assert decide(config(SLO), seen(0, 4, traffic=replace(TRAFFIC, rate=1e9)), NOW, OLD).value == 20
    assert all(value < inf or name == "most" for name, value in terms(config(SLO), seen(0, 4), NOW, OLD).items())
