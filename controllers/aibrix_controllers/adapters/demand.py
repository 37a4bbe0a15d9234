"""How often each adapter is asked for, from what pickers count.

Counters only grow while a picker lives, so what came between two looks is a difference; a new `instance` begins at zero. A picker
that is silent takes its counts with it: for half a minute that means nothing, then it is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aibrix_compile.policy.windows import Series

MINUTE, QUARTER = 60, 900
SILENT_US = 30_000_000
"""Without a word from any picker their counts are missing."""
_LEAST_S = 10
_MOST = 20_000
"""Adapters that are counted; names are those of configurations, so this only bounds what a broken picker could do."""


@dataclass(slots=True)
class Picker:
    """The last word of one picker."""

    instance: str = ""
    asked: dict[tuple[str, str], int] = field(default_factory=dict)
    waiting: dict[tuple[str, str], int] = field(default_factory=dict)
    in_flight: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Service, address of the engine, adapter."""
    heard: int = 0


class Demand:
    """Of all services. `now` in microseconds, from `start` on."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._series: dict[tuple[str, str], Series] = {}
        self.pickers: dict[str, Picker] = {}
        self._waiting: dict[tuple[str, str], int] = {}
        self.heard = start
        """When a picker last said something."""

    def told(self, address: str, page: Mapping[str, Any], now: int) -> bool:
        """A picker's page; whether somebody waits who did not before. KeyError, TypeError, ValueError, AttributeError."""
        known = self.pickers.get(address) or Picker()
        fresh = Picker(str(page["instance"]), heard=now)
        for service, rows in page["services"].items():
            fresh.asked |= {(service, name): int(count) for name, count in rows["asked"].items()}
            fresh.waiting |= {(service, name): int(count) for name, count in rows["waiting"].items()}
            for engine, counts in rows["in_flight"].items():
                fresh.in_flight |= {(service, engine, name): int(count) for name, count in counts.items()}
        before = known.asked if known.instance == fresh.instance else {}
        for key, count in fresh.asked.items():
            if (more := count - before.get(key, 0)) > 0 and (known.instance or now - self._start > SILENT_US):
                self._add(key, more, now)
            elif more > 0:
                self._add(key, min(more, 1), now)  # our own start: what it counted before we listened is old
        self.pickers[address] = fresh
        self._look(now)
        self.heard = now
        return any(key not in known.waiting for key in fresh.waiting)

    def gone(self, address: str) -> None:
        """The picker is no more; what it has counted stays in the windows."""
        if self.pickers.pop(address, None):
            self._look(self.heard)

    def silent(self, now: int) -> bool:
        return now - self.heard > SILENT_US

    def rates(self, service: str, name: str, now: int) -> tuple[float, float]:
        """Requests/s of 60 s and of 15 minutes. While no picker speaks, as they were when the last one did."""
        series = self._series.get((service, name))
        if series is None:
            return 0.0, 0.0
        at = min(now, self.heard + SILENT_US) if self.silent(now) else now
        series.advance(at)
        covered = max(_LEAST_S, (at - self._start) / 1e6)
        return series.sums(MINUTE)[0] / min(MINUTE, covered), series.sums(QUARTER)[0] / min(QUARTER, covered)

    def waiting(self, service: str) -> dict[str, int]:
        """Adapters for which somebody waits, and since when."""
        return {name: since for (one, name), since in self._waiting.items() if one == service}

    def _look(self, now: int) -> None:
        keys = {key for picker in self.pickers.values() for key in picker.waiting}
        self._waiting = {key: self._waiting.get(key, now) for key in keys}

    def in_use(self, service: str, ip: str) -> set[str]:
        """Adapters with requests of pickers on the engine at an address."""
        return {
            name
            for picker in self.pickers.values()
            for (one, engine, name), count in picker.in_flight.items()
            if one == service and count and engine.rpartition(":")[0].strip("[]") == ip
        }

    def _add(self, key: tuple[str, str], count: int, now: int) -> None:
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= _MOST:
                return
            series = self._series[key] = Series(MINUTE, QUARTER)
        series.add(now, count)

    def forget(self, now: int) -> None:
        """Series in which nothing is left."""
        for key, series in list(self._series.items()):
            series.advance(now)
            if not series.sums(QUARTER)[0]:
                del self._series[key]
