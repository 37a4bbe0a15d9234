"""The band, the rates and the down-window of apa."""

from math import inf

import pytest

from aibrix_compile.policy.apa import Apa, wanted, wish
from aibrix_compile.policy.observation import Load, Memory, Reading
from aibrix_compile.policy.quantities import PerReplica, Total
from aibrix_compile.policy.windows import SECOND

CONFIG = Apa("kv_cache_usage", PerReplica(0.5))
NOW = 10_000 * SECOND
OLD = Memory(since=0, last=NOW - SECOND)


def load(total: float, silent: float = 0) -> Load:
    one = Reading(Total(total), silent)
    return Load(one, one, one, one)


@pytest.mark.parametrize(
    ("mean", "ready", "target", "value"),
    [
        (0.9, 4, 0.5, 8),
        (0.55, 4, 0.5, 4),
        (0.56, 4, 0.5, 5),
        (0.2, 8, 0.5, 4),
        (3, 2, 1, 4),
        (0.45, 4, 0.5, 4),
        (0.44, 8, 0.5, 8),  # 7.04
        (0.35, 8, 0.5, 6),
        (0.0, 5, 0.5, 2),
        (0.9, 6, 0.5, 11),
    ],
)
def test_golden(mean: float, ready: int, target: float, value: int) -> None:
    assert wanted(Apa("m", PerReplica(target)), PerReplica(mean), ready) == value


def test_up_at_once_and_down_after_a_window() -> None:
    memory, now, seen = Memory(), NOW, []
    for total, seconds in ((0.9 * 4, 1), (1.0, 400)):
        for _ in range(seconds):
            found = wish(CONFIG, load(total), 4, 4, 0, memory, now)
            memory, now = found.memory, now + SECOND
            seen.append((found.least, found.most))
    assert seen[0] == (8, inf)
    assert seen[1] == (2, inf)
    assert seen[299] == (2, inf)
    assert seen[300] == (2, 2)  # the second of 8 has just left the window


def test_the_window_begins_with_the_last_rise_and_holds_twice_the_cold_start() -> None:
    def most(memory: Memory, cold: int) -> float:
        return wish(CONFIG, load(1.0), 4, 4, cold, memory, NOW).most

    assert most(OLD, 0) == 2
    assert most(Memory(since=0, last=NOW, up=NOW - 299 * SECOND), 0) == inf
    assert most(Memory(since=0, last=NOW, up=NOW - 300 * SECOND), 0) == 2
    assert most(Memory(since=0, last=NOW, up=NOW - 300 * SECOND), 151) == inf
    assert most(Memory(since=0, last=NOW, up=NOW - 302 * SECOND), 151) == 2


def test_what_starts_is_neither_multiplied_nor_dropped_within_the_band() -> None:
    found = wish(CONFIG, load(1.0), 2, 6, 0, OLD, NOW)  # two serve, just right; four start
    assert (found.least, found.most) == (2, 6)
    found = wish(CONFIG, load(1.2), 2, 6, 0, OLD, NOW)  # a little too much
    assert (found.least, found.most) == (3, 6)
    found = wish(CONFIG, load(9.0), 2, 4, 0, OLD, NOW)
    assert (found.least, found.limited_by) == (4, ("rate",))


def test_silent_replicas() -> None:
    found = wish(CONFIG, load(0.2, silent=2), 4, 4, 0, OLD, NOW)
    assert (found.least, found.most) == (2, 3)  # 0.2 + 2 x 0.5 over 4 x 0.5 is 0.6
    found = wish(CONFIG, load(2.4, silent=1), 4, 4, 0, OLD, NOW)
    assert found.least == 5
    for lost in (None, load(0.0, silent=4)):
        found = wish(CONFIG, lost, 4, 4, 0, OLD, NOW)
        assert (found.least, found.most, found.limited_by) == (0, inf, ("missing",))
