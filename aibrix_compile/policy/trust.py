"""How far a slope may be believed: as far as slopes have lately come true.

A ramp goes on, a burst does not, and a minute alone can not tell which it is. But each slope is a forecast, and a cold start later
it has come true or not: the least-squares factor between what was forecast and what came says how much of a slope this service's
traffic keeps. Ten seconds lie between forecasts, so a value costs nothing to keep.
"""

from __future__ import annotations

from collections import deque
from math import exp

from aibrix_compile.policy.windows import SECOND

EVERY_SECONDS = 10
FORGET_SECONDS = 3600
"""After which a forecast weighs 1/e."""
PRIOR = 120
"""Forecasts that are taken to have come true before the first: twenty minutes of them, so that a first ramp is met."""
_DECAY = exp(-EVERY_SECONDS / FORGET_SECONDS)


class Trust:
    """Of slopes `ahead` seconds into the future."""

    __slots__ = ("_ahead", "_came", "_count", "_open", "_squares")

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._open: deque[tuple[int, float, float]] = deque()
        self._count = self._squares = self._came = 0.0

    def saw(self, now: int, rate: float, slope: float) -> None:
        """At `now`, microseconds: a rate in requests per second, and by how much it grows in a second."""
        waiting = self._open
        if waiting and now < waiting[-1][0] + EVERY_SECONDS * SECOND:
            return
        waiting.append((now, rate, slope * self._ahead))
        while waiting[0][0] <= now - self._ahead * SECOND:
            _, before, forecast = waiting.popleft()
            self._count = self._count * _DECAY + 1
            self._squares = self._squares * _DECAY + forecast**2
            self._came = self._came * _DECAY + forecast * (rate - before)

    @property
    def share(self) -> float:
        """Between 0 and 1. The prior's forecasts are as large as those that came."""
        if not self._squares:
            return 1.0
        prior = PRIOR * self._squares / self._count
        return min(1.0, max(0.0, (self._came + prior) / (self._squares + prior)))
