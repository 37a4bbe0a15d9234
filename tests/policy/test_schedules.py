"""Bounds by time of day in real time zones: midnight, the days on which clocks change, several at once."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from aibrix_compile.policy.schedules import DAYS, Offset, Schedule, bounds, minute_of_day
from aibrix_compile.policy.windows import SECOND

WORK = DAYS[:5]


def offset(zone: str) -> Offset:
    def ahead(seconds: int) -> int:
        found = datetime.fromtimestamp(seconds, ZoneInfo(zone)).utcoffset()
        assert found is not None
        return int(found.total_seconds())

    return ahead


def at(text: str) -> int:
    """Microseconds of a time in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


def schedule(days: tuple[str, ...], start: str, end: str, zone: str = "Europe/Berlin", low: int = 3) -> Schedule:
    return Schedule(days, minute_of_day(start), minute_of_day(end), low, offset=offset(zone))


@pytest.mark.parametrize(
    ("one", "when", "holds"),
    [
        (schedule(WORK, "08:00", "19:00"), "2026-01-05 06:59:59", False),  # Monday, 07:59:59 in Berlin
        (schedule(WORK, "08:00", "19:00"), "2026-01-05 07:00:00", True),
        (schedule(WORK, "08:00", "19:00"), "2026-01-05 18:00:00", False),
        (schedule(WORK, "08:00", "19:00"), "2026-01-04 12:00:00", False),  # Sunday
        (schedule(WORK, "08:00", "19:00"), "2026-07-06 06:00:00", True),  # summer: one hour earlier in UTC
        (schedule(WORK, "08:00", "19:00"), "2026-07-06 17:00:00", False),
        # the day is the zone's: Monday in Tokyo begins on Sunday in UTC
        (schedule(("Mon",), "00:00", "08:00", "Asia/Tokyo"), "2026-01-04 15:00:00", True),
        (schedule(("Mon",), "00:00", "08:00", "Asia/Tokyo"), "2026-01-05 15:00:00", False),
        # over midnight: days are those of the beginning
        (schedule(("Fri",), "22:00", "02:00"), "2026-01-09 20:59:59", False),
        (schedule(("Fri",), "22:00", "02:00"), "2026-01-09 21:00:00", True),
        (schedule(("Fri",), "22:00", "02:00"), "2026-01-10 00:59:59", True),
        (schedule(("Fri",), "22:00", "02:00"), "2026-01-10 01:00:00", False),
        (schedule(("Fri",), "22:00", "02:00"), "2026-01-09 00:30:00", False),
        # a whole day
        (schedule(("Sat",), "06:00", "06:00"), "2026-01-11 04:59:59", True),
        (schedule(("Sat",), "06:00", "06:00"), "2026-01-11 05:00:00", False),
        # clocks go forward on 29 March at 01:00 UTC: 02:30 does not exist
        (schedule(("Sun",), "02:00", "03:00"), "2026-03-29 00:59:59", False),
        (schedule(("Sun",), "02:00", "03:00"), "2026-03-29 01:00:00", False),
        (schedule(("Sun",), "01:00", "04:00"), "2026-03-29 01:59:59", True),
        (schedule(("Sun",), "01:00", "04:00"), "2026-03-29 02:00:00", False),
        # clocks go back on 25 October at 01:00 UTC: 02:30 comes twice
        (schedule(("Sun",), "02:00", "03:00"), "2026-10-25 00:30:00", True),
        (schedule(("Sun",), "02:00", "03:00"), "2026-10-25 01:30:00", True),
        (schedule(("Sun",), "02:00", "03:00"), "2026-10-25 02:00:00", False),
    ],
)
def test_when_it_holds(one: Schedule, when: str, holds: bool) -> None:
    assert one.holds(at(when)) is holds


def test_the_narrowest_of_several_and_the_fewest_of_a_contradiction() -> None:
    always = tuple(DAYS)
    one, two = Schedule(always, 0, 0, low=2, high=9), Schedule(always, 0, 0, low=4, high=6)
    assert bounds((one, two), 0) == (4, 6)
    assert bounds((one, Schedule(always, 0, 0, high=1)), 0) == (2, 2)
    assert bounds((Schedule(always, 0, 0, low=1),), 0) == (1, None)
    assert bounds((Schedule(("Fri",), 0, 60, low=5),), 0) == (0, None)  # 1970 began on a Thursday


def test_minutes() -> None:
    assert (minute_of_day("00:00"), minute_of_day("08:05"), minute_of_day("23:59")) == (0, 485, 1439)
