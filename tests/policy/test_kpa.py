"""Windows, panic and rates of kpa: golden numbers, then what happens over time."""

from dataclasses import replace
from math import inf

import pytest

from aibrix_compile.policy.kpa import Kpa, wish
from aibrix_compile.policy.observation import Load, Memory, Reading
from aibrix_compile.policy.quantities import PerReplica, Total
from aibrix_compile.policy.windows import SECOND

CONFIG = Kpa("requests_in_flight", PerReplica(10))
NOW = 1000 * SECOND
OLD = Memory(since=0, last=NOW - SECOND)


def load(stable: float, panic: float, silent: float = 0) -> Load:
    one, two = Reading(Total(stable), silent), Reading(Total(panic), silent)
    return Load(two, one, two, one)


def number(stable: float, panic: float, ready: int, size: int | None = None, tolerance: float = 0.0) -> int:
    """Where the range leaves the size."""
    size = ready if size is None else size
    config = Kpa("m", PerReplica(10), tolerance=tolerance)
    found = wish(config, load(stable, panic), ready, 0, size, 0, OLD, NOW)
    return int(max(found.least, min(size, found.most)))


@pytest.mark.parametrize(
    ("stable", "panic", "ready", "tolerance", "value"),
    [
        (30, 30, 4, 0.0, 3),
        (20, 60, 3, 0.0, 6),  # 6/3 >= 2: panic
        (20, 50, 3, 0.0, 2),  # 5/3 < 2: none
        (5, 5, 4, 0.0, 2),  # the rate
        (31.5, 31.5, 3, 0.0, 4),
        (31.5, 31.5, 3, 0.1, 3),
        (33.1, 33.1, 3, 0.1, 4),
        (26.9, 26.9, 4, 0.1, 3),
        (0, 0, 1, 0.0, 0),
        (300, 300, 1, 0.0, 30),
    ],
)
def test_golden(stable: float, panic: float, ready: int, tolerance: float, value: int) -> None:
    assert number(stable, panic, ready, tolerance=tolerance) == value


def test_what_starts_is_not_multiplied() -> None:
    assert number(60, 60, 2, size=6) == 6  # 60 wants 6, whether or not four of them still start
    assert number(60, 60, 2, size=3) == 6


def test_nothing_serves_yet() -> None:
    assert number(35, 35, 0, size=2) == 4  # what the gateway holds
    assert number(0, 0, 0, size=5) == 5


def test_a_panic_only_rises_and_ends_a_stable_window_after_the_last_burst() -> None:
    memory, now = OLD, NOW
    found = wish(CONFIG, load(20, 60), 3, 0, 3, 0, memory, now)
    assert (found.least, found.most) == (6, inf)
    now += 30 * SECOND
    found = wish(CONFIG, load(20, 20), 6, 0, 6, 0, found.memory, now)
    assert (found.least, found.most, found.limited_by) == (6, inf, ("panic",))
    now += 30 * SECOND
    found = wish(CONFIG, load(80, 20), 6, 0, 6, 0, found.memory, now)  # in a panic the stable window may ask for more
    assert (found.least, found.most) == (8, inf)
    now += SECOND
    found = wish(CONFIG, load(20, 20), 8, 0, 8, 0, found.memory, now)
    assert (found.least, found.most, found.limited_by) == (4, 8, ("downWindow",))
    assert found.memory.panic is None and found.memory.panic_size == 0
    now += 59 * SECOND
    found = wish(CONFIG, load(20, 20), 8, 0, 8, 0, replace(found.memory, last=now), now)
    assert (found.least, found.most, found.limited_by) == (4, 4, ("rate",))


def test_down_needs_a_window_of_data_since_the_last_rise() -> None:
    for memory, most in (
        (Memory(), inf),
        (Memory(since=NOW - 60 * SECOND, last=NOW - SECOND), 2),
        (Memory(since=NOW - 59 * SECOND, last=NOW - SECOND), inf),
        (Memory(since=0, last=NOW - SECOND, up=NOW - 59 * SECOND), inf),
        (Memory(since=0, last=NOW - 31 * SECOND), inf),  # data was missing for too long
    ):
        assert wish(CONFIG, load(20, 20), 4, 0, 4, 0, memory, NOW).most == most


def test_silent_replicas_hold_the_number_in_the_direction_of_doubt() -> None:
    found = wish(CONFIG, load(20, 20, silent=2), 4, 0, 4, 0, OLD, NOW)
    assert (found.least, found.most) == (2, 4)  # 20 of two: up if they alone want it, down as if the others had 10 each
    assert wish(CONFIG, load(45, 45, silent=1), 4, 0, 4, 0, OLD, NOW).least == 5
    for lost in (None, load(0, 0, silent=4)):
        found = wish(CONFIG, lost, 4, 0, 4, 0, OLD, NOW)
        assert (found.least, found.most, found.limited_by, found.memory) == (0, inf, ("missing",), OLD)


def test_warm_replicas_meet_a_burst_too() -> None:
    assert wish(CONFIG, load(20, 39), 4, 2, 2, 0, OLD, NOW).memory.panic is None  # 4 wanted, 4 are there
    assert wish(CONFIG, load(20, 39), 4, 0, 4, 0, OLD, NOW).memory.panic is None
    assert wish(CONFIG, load(20, 80), 4, 2, 2, 0, OLD, NOW).least == 8
    band = Kpa("m", PerReplica(10), tolerance=0.1)
    assert wish(band, load(21, 21), 4, 2, 2, 0, OLD, NOW).least == 2  # the load is for two


def test_down_only_to_the_largest_need_of_a_cold_start() -> None:
    """What Knative calls scale-down-delay."""
    memory = wish(CONFIG, load(60, 60), 6, 0, 6, 120, OLD, NOW).memory
    later = NOW + 119 * SECOND
    found = wish(CONFIG, load(20, 20), 6, 0, 6, 120, replace(memory, last=later), later)
    assert (found.most, found.limited_by) == (6, ("downWindow",))
    later = NOW + 120 * SECOND
    assert wish(CONFIG, load(20, 20), 6, 0, 6, 120, replace(memory, last=later), later).most == 3  # half at most
