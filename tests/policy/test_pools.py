"""From capacity to replicas of several pools: the cheapest first, the dearest away, and every limit by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.policy.observation import PoolState
from aibrix_compile.policy.pools import Fitting, Pool, caps, preferred
from aibrix_compile.policy.windows import SECOND

CHEAP = Pool("l4", 0, 4, gpus=1, cost_per_hour=1.0, cold_start_seconds=100)
DEAR = Pool("h100", 0, 4, gpus=2, cost_per_hour=5.0, cold_start_seconds=100)
SPOT = Pool("l4-spot", 0, 4, gpus=1, cost_per_hour=1.0, cold_start_seconds=100, spot=True)
BOTH = (DEAR, CHEAP)


def states(*sizes: int) -> tuple[PoolState, ...]:
    return tuple(PoolState(size, size) for size in sizes)


@pytest.mark.parametrize(
    ("pools", "speeds", "order"),
    [
        (BOTH, (1.0, 1.0), [1, 0]),
        (BOTH, (6.0, 1.0), [0, 1]),  # dearer, but not for what it does
        ((CHEAP, SPOT), (1.0, 1.0), [1, 0]),
        ((DEAR, Pool("x", 0, 4)), (1.0, 1.0), [0, 1]),  # a price is unknown: as written
        ((DEAR, Pool("x", 0, 4, spot=True)), (1.0, 1.0), [1, 0]),
    ],
)
def test_order(pools: tuple[Pool, ...], speeds: tuple[float, ...], order: list[int]) -> None:
    assert preferred(pools, speeds) == order


@pytest.mark.parametrize(
    ("sizes", "least", "most", "counts", "hits"),
    [
        ((1, 1), 1.5, 9, (1, 1), ()),  # within: nothing moves, though (0, 2) would cost less
        ((0, 1), 2.2, 9, (0, 3), ()),
        ((0, 1), 6, 9, (2, 4), ()),  # the cheap pool to its limit, then the next
        ((0, 1), 9, 9, (4, 4), ("max",)),
        ((2, 3), 0, 3, (0, 3), ()),  # the dear pool goes first
        ((2, 3), 0, 2.4, (0, 3), ()),
        ((2, 3), 0, 0, (0, 0), ()),
        ((9, 3), 0, 9, (4, 3), ("max",)),
    ],
)
def test_within(
    sizes: tuple[int, int], least: float, most: float, counts: tuple[int, int], hits: tuple[str, ...]
) -> None:
    found = Fitting(BOTH, states(*sizes), (1.0, 1.0), ())
    found.within(least, most, 0)
    assert (tuple(found.counts), tuple(found.hits)) == (counts, hits)


def test_faster_replicas_count_for_more() -> None:
    found = Fitting(BOTH, states(0, 0), (3.0, 1.0), ())  # the first is the measure: 5 an hour for 3, the other 1 for 1
    assert found.capacity == 0
    found.within(6, 9, 0)
    assert found.counts == [1, 4]  # 4 of the cheap, and one for the other 2
    assert found.capacity == 7
    found.within(0, 6, 0)  # 1 too much is less than a fast replica: a slow one goes
    assert found.counts == [1, 3]


@pytest.mark.parametrize(
    ("high", "gpus", "money", "counts", "hits"),
    [
        (None, 0, 0.0, (4, 4), ()),
        (5, 0, 0.0, (1, 4), ("schedule",)),
        (None, 6, 0.0, (1, 4), ("maxGPUs",)),
        (None, 7, 0.0, (1, 4), ("maxGPUs",)),
        (None, 3, 0.0, (0, 3), ("maxGPUs",)),
        (None, 0, 14.0, (2, 4), ("maxCostPerHour",)),
        (None, 0, 13.99, (1, 4), ("maxCostPerHour",)),
        (None, 6, 9.0, (1, 4), ("maxGPUs", "maxCostPerHour")),
    ],
)
@pytest.mark.parametrize("sizes", [(0, 0), (4, 4)])
def test_limits(
    sizes: tuple[int, int], high: int | None, gpus: int, money: float, counts: tuple[int, int], hits: tuple[str, ...]
) -> None:
    """The same from below and from above."""
    found = Fitting(BOTH, states(*sizes), (1.0, 1.0), caps(BOTH, high, gpus, money))
    found.obey()
    found.within(8, 8, 0)
    assert tuple(found.counts) == counts
    assert set(hits) <= set(found.hits)
    assert bool(hits) == bool(found.hits)


def test_a_minimum_is_kept_whatever_the_budget_says() -> None:
    pools = (Pool("a", 2, 4, gpus=4), Pool("b", 0, 4))
    found = Fitting(pools, states(3, 2), (1.0, 1.0), caps(pools, None, 4, 0.0))
    found.obey()
    assert (found.counts, tuple(found.hits)) == ([2, 0], ("maxGPUs",))
    found = Fitting(pools, states(2, 0), (1.0, 1.0), ())
    found.within(0, 1, 0)
    assert (found.counts, tuple(found.hits)) == ([2, 0], ("min",))


def test_the_budget_is_spent_on_what_still_fits() -> None:
    found = Fitting(BOTH, states(0, 3), (1.0, 1.0), caps(BOTH, None, 4, 0.0))
    found.within(5, 9, 0)
    assert found.counts == [0, 4]  # one GPU is left, and a dear replica takes two


def test_replicas_that_do_not_start_are_spilled_to_the_next_pool() -> None:
    stuck = PoolState(3, 1, (199 * SECOND, 200 * SECOND))
    assert (stuck.late(100), stuck.late(100 * SECOND), stuck.late(0)) == (2, 1, 0)
    found = Fitting(BOTH, (PoolState(0, 0), stuck), (1.0, 1.0), ())
    assert found.capacity == 2
    found.within(4, 9, 0)
    assert (found.counts, tuple(found.hits)) == ([2, 3], ())  # what is late stays asked for, and the pool does not grow
    alone = Fitting((CHEAP,), (stuck,), (1.0,), ())
    alone.within(4, 9, 0)
    assert (alone.counts, tuple(alone.hits)) == ([3], ("late",))
    shrinking = Fitting((CHEAP,), (PoolState(4, 3, (900 * SECOND,)),), (1.0,), ())
    shrinking.within(0, 2, 0)
    assert shrinking.counts == [2]  # the late one and one more


def test_pods_that_do_not_exist_yet_are_not_late() -> None:
    assert PoolState(3, 3, (900 * SECOND,)).late(SECOND) == 0
    assert PoolState(5, 3).late(SECOND) == 0


def test_floor() -> None:
    found = Fitting(BOTH, states(2, 0), (3.0, 1.0), ())
    found.within(0, 0, 2)
    assert (found.counts, tuple(found.hits)) == ([2, 0], ("min",))
    found.floor(4, "schedule")
    assert (found.counts, tuple(found.hits)) == ([2, 2], ("min", "schedule"))


small = st.integers(0, 5)
pool = st.builds(
    lambda name, low, more, gpus, cost, spot: Pool(name, low, low + more, gpus, cost, 100, spot),
    st.sampled_from("abc"),
    small,
    small,
    st.integers(0, 4),
    st.one_of(st.none(), st.integers(0, 9).map(float)),
    st.booleans(),
)


@given(
    st.lists(st.tuples(pool, small, st.floats(0.2, 5)), min_size=1, max_size=4),
    st.floats(0, 30),
    st.floats(0, 30),
    small,
    st.one_of(st.none(), st.integers(0, 9)),
    st.integers(0, 9),
)
def test_bounds_hold(
    rows: list[tuple[Pool, int, float]], least: float, more: float, floor: int, high: int | None, gpus: int
) -> None:
    pools, sizes, speeds = zip(*rows, strict=True)
    limits = caps(pools, high, gpus, 0.0)
    found = Fitting(pools, states(*sizes), speeds, limits)
    found.obey()
    found.within(least, least + more, floor)
    found.floor(floor, "schedule")
    assert all(one.low <= count <= one.high for one, count in zip(pools, found.counts, strict=True))
    lows = [one.low for one in pools]
    for cap in limits:
        assert cap.left(found.counts) >= min(0, cap.left(lows))
    if not found.hits:
        assert found.capacity >= least - 1e-6 and sum(found.counts) >= floor
