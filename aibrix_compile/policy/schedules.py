"""Bounds by time of day: which of them hold at a moment, by the clock on the wall of their time zone.

The caller looks the zone up, because the tz database is a file: `offset` says how far the zone's clocks are ahead of UTC.
With it a night in which clocks go back holds the hour twice, and one in which they go forward not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aibrix_compile.policy.windows import SECOND

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = 24 * 60  # minutes
_EPOCH = 3  # 1 January 1970 was a Thursday

Offset = Callable[[int], int]
"""Unix seconds -> how many seconds a zone's clocks are ahead of UTC then."""


def utc(seconds: int) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """At least `low` and at most `high` replicas of the service, on `days` (Mon ... Sun) from `start` to `end`.

    Both are minutes of the day. An end that is not after the start lies on the next day; `days` name those on which it begins.
    """

    days: tuple[str, ...]
    start: int
    end: int
    low: int | None = None
    high: int | None = None
    offset: Offset = utc

    def holds(self, now: int) -> bool:
        """`now` in microseconds since 1970, UTC."""
        seconds = now // SECOND
        day, rest = divmod(seconds + self.offset(seconds), _DAY * 60)
        minute, today = rest // 60, DAYS[(day + _EPOCH) % 7]
        if self.start < self.end:
            return self.start <= minute < self.end and today in self.days
        yesterday = DAYS[(day + _EPOCH - 1) % 7]
        return (minute >= self.start and today in self.days) or (minute < self.end and yesterday in self.days)


def bounds(schedules: Iterable[Schedule], now: int) -> tuple[int, int | None]:
    """Fewest and most replicas at `now`, None without a limit. Of several the narrowest holds; where they contradict each
    other the fewest do: too many replicas cost money, too few cost requests."""
    low, high = 0, None
    for one in schedules:
        if one.holds(now):
            low = max(low, one.low or 0)
            if one.high is not None:
                high = one.high if high is None else min(high, one.high)
    return low, None if high is None else max(low, high)


def minute_of_day(text: str) -> int:
    """Of "HH:MM", as ScalingPolicy spells it."""
    return int(text[:2]) * 60 + int(text[3:])
