"""The past as a floor: where it was right, and not for longer than it is."""

import pytest

from aibrix_compile.policy.seasonal import DAY, SLOT_SECONDS, WEEK, floor
from aibrix_compile.policy.windows import SECOND

NOW = 3000  # slot
AHEAD = 2 * SLOT_SECONDS * SECOND


def at(slot: int) -> int:
    return slot * SLOT_SECONDS * SECOND


def past(lag: int, rate: float, peak: float, actual: float) -> dict[int, float]:
    """`rate` then and `actual` in the last three hours; then, `peak` came one slot later than now."""
    found = {NOW - 1 - back - lag: rate for back in range(36)} | {NOW - 1 - back: actual for back in range(36)}
    return found | {NOW - lag: rate, NOW + 1 - lag: peak}


@pytest.mark.parametrize(
    ("history", "rate"),
    [
        ({}, 0.0),
        (past(DAY, 10, 25, 10), 25.0),
        (past(DAY, 10, 25, 7.0), 25.0),  # 0.7 of it came: still right
        (past(DAY, 10, 25, 6.9), 0.0),
        (past(WEEK, 10, 25, 10), 25.0),
        (past(DAY, 10, 25, 10) | past(WEEK, 10, 40, 10), 40.0),  # last week knows weekends
        (past(DAY, 10, 25, 10) | past(WEEK, 30, 40, 10), 25.0),  # but was wrong here
    ],
)
def test_floor(history: dict[int, float], rate: float) -> None:
    assert floor(history, at(NOW), AHEAD) == rate


def test_it_looks_no_further_than_a_start_takes() -> None:
    history = past(DAY, 10, 25, 10)
    assert floor(history, at(NOW), SLOT_SECONDS * SECOND - 1) == 10.0
    assert floor(history, at(NOW), SLOT_SECONDS * SECOND) == 25.0


def test_too_little_is_known() -> None:
    history = past(DAY, 10, 25, 10)
    for back in range(13):
        assert floor(history, at(NOW), AHEAD) == 25.0
        del history[NOW - 1 - back]
    assert floor(history, at(NOW), AHEAD) == 0.0


def test_a_holiday_costs_forty_minutes() -> None:
    history = dict.fromkeys(range(NOW - DAY - 100, NOW), 20.0)
    wrong = 0
    for slot in range(NOW, NOW + 36):
        wrong += floor(history, at(slot), 0) > 0
        history[slot] = 1.0
    assert wrong == 8
