"""Yesterday and last week as a floor under the arrival rate, where they have lately been right.

Why a floor and not a forecast: a replica takes minutes to start, so what comes at nine every morning must be met at five to
nine; but a forecast that is wrong on a holiday must cost little and must never take a replica away. So the past may only raise
the rate, only by what was seen, and only while it holds: of the last three hours' slots, four in five had at least 0.7 of what
the floor would have been. A floor that fails is dropped after some forty minutes.
"""

from __future__ import annotations

from collections.abc import Mapping

from aibrix_compile.policy.windows import SECOND

SLOT_SECONDS = 300
DAY, WEEK = 288, 2016  # slots
WATCHED = 36  # slots, three hours
KNOWN = 24  # of them must be known on both sides
RIGHT, SHARE = 0.7, 0.8

History = Mapping[int, float]
"""Unix seconds // 300 -> mean rate of arrivals in those five minutes, requests per second. Slots may be missing."""


class Slots:
    """Counts arrivals into slots; a slot that was not listened to all the time stays unknown."""

    __slots__ = ("_count", "_slot", "_whole", "rates")

    def __init__(self, rates: dict[int, float]) -> None:
        self.rates = rates
        self._slot, self._count, self._whole = -1, 0, False

    def add(self, now: int, requests: int, *, heard: bool) -> None:
        """`requests` since the last call; whether that was a moment ago."""
        slot = now // SECOND // SLOT_SECONDS
        if slot != self._slot:
            if self._whole and heard and slot == self._slot + 1:
                kept = {each: rate for each, rate in self.rates.items() if each >= slot - WEEK - WATCHED}
                self.rates = {**kept, self._slot: self._count / SLOT_SECONDS}
            self._whole = heard and slot == self._slot + 1
            self._slot, self._count = slot, 0
        self._whole = self._whole and heard
        self._count += requests


def floor(history: History, now: int, ahead: int) -> float:
    """The rate that is to be expected within the next `ahead` microseconds, requests per second; 0 where the past says
    nothing or was wrong. Last week is asked first, since it knows weekends; then yesterday."""
    first, last = now // SECOND // SLOT_SECONDS, (now + ahead) // SECOND // SLOT_SECONDS
    for lag in (WEEK, DAY):
        if pays(history, first, lag):
            return max(history.get(slot - lag, 0.0) for slot in range(first, last + 1))
    return 0.0


def pays(history: History, slot: int, lag: int) -> bool:
    """Whether the rates of `lag` slots ago would have been a good floor in the slots before `slot`."""
    known = right = 0
    for each in range(slot - WATCHED, slot):
        then, actual = history.get(each - lag), history.get(each)
        if then is not None and actual is not None:
            known += 1
            right += actual >= RIGHT * then
    return known >= KNOWN and right >= SHARE * known
