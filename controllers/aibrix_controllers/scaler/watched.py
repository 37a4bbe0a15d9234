"""What is seen of one service, second by second, into the windows of `policy.signals`.

Pickers count what arrives, what waits and what is in flight; replicas tell what runs, what waits in them, their KV cache and sums of
tokens and times. Both are sums since a process began, so what came between two looks is a difference, and a process that began
anew begins at zero.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import NamedTuple

from aibrix_compile.policy.observation import Gauge, Observation, PoolState, Reading, reading
from aibrix_compile.policy.quantities import Total
from aibrix_compile.policy.seasonal import History
from aibrix_compile.policy.signals import Signals
from aibrix_compile.policy.windows import SECOND

_MINUTE = 60 * SECOND


class Said(NamedTuple):
    """A replica's own word. `totals` are its engine's sums, empty where it tells none; `boot` changes when they begin anew."""

    running: int
    waiting: int
    kv_used: float
    boot: str
    totals: Mapping[str, float]


class Replica(NamedTuple):
    """`address`: IP of the pod. `said` is None where it is silent; `age` in microseconds since the pod was made."""

    name: str
    target: str
    address: str
    ready: bool
    age: int
    said: Said | None


class Page(NamedTuple):
    """What one picker has counted for one service since it began: sums, and what is there now. `in_flight` by IP of the engine."""

    instance: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    held: int
    in_flight: Mapping[str, int]


@dataclass(slots=True)
class Watched:
    """Of one service. Times are microseconds since 1970; `metric` is what its strategy follows."""

    start: int
    metric: str
    stable: int = 60
    panic: int = 6
    cold_start: int = 0
    history: InitVar[History | None] = None
    signals: Signals = field(init=False)
    _pages: dict[str, Page] = field(default_factory=dict)
    _totals: dict[str, tuple[str, Mapping[str, float]]] = field(default_factory=dict)
    _times: dict[str, deque[tuple[int, float, float]]] = field(default_factory=dict)
    _in_flight: Total | None = None
    held: int = 0

    def __post_init__(self, history: History | None) -> None:
        self.signals = Signals(self.start, self.stable, self.panic, self.cold_start, history)

    def look(self, now: int, replicas: Sequence[Replica], pages: Mapping[str, Page] | None) -> None:
        """Once a second or so. `pages` by picker; None: there are none, so what arrives is what engines say; empty: they are silent."""
        ready = [one for one in replicas if one.ready]
        more = self._engines(now, ready)
        if pages is None:
            there = sum(one.said.running + one.said.waiting for one in ready if one.said)
            before = round(self._in_flight.value) if self._in_flight else there
            came = max(0, round(more.get("requests", 0)) + there - before)
            prompt, cached = (round(more.get(name, 0)) for name in ("prompt_tokens", "cached_tokens"))
            self._in_flight = Total(float(there))
            if any(one.said for one in ready) or not ready:
                self.signals.arrived(now, came, prompt, min(cached, prompt))
        elif pages:
            self._pickers(now, pages)
        else:
            self._in_flight, self.held = None, 0
        running, waiting = (self._reading(ready, name) for name in ("requests_running", "requests_waiting"))
        load = self._load(now, ready, pages) if self.metric else running
        self.signals.gauges(now, load, running, waiting)

    def observe(self, now: int, pools: tuple[PoolState, ...]) -> Observation:
        return self.signals.observe(now, pools, self._in_flight, self.held)

    # --- what pickers count

    def _pickers(self, now: int, pages: Mapping[str, Page]) -> None:
        requests = prompt = cached = 0
        for address, page in pages.items():
            before = self._pages.get(address)
            if before is None:
                continue  # what it counted before we listened is old
            if before.instance != page.instance:
                before = Page(page.instance, 0, 0, 0, 0, {})
            requests += max(0, page.requests - before.requests)
            prompt += max(0, page.prompt_tokens - before.prompt_tokens)
            cached += max(0, page.cached_tokens - before.cached_tokens)
        self._pages = dict(pages)
        self.held = sum(page.held for page in pages.values())
        self._in_flight = Total(float(sum(sum(page.in_flight.values()) + page.held for page in pages.values())))
        self.signals.arrived(now, requests, prompt, min(cached, prompt))

    # --- what replicas tell

    def _engines(self, now: int, ready: Sequence[Replica]) -> dict[str, float]:
        """What was added to sums."""
        more: dict[str, float] = {}
        for one in ready:
            if one.said is None or not one.said.totals:
                continue
            boot, before = self._totals.get(one.name, ("", {}))
            if boot == one.said.boot:
                for name, value in one.said.totals.items():
                    more[name] = more.get(name, 0.0) + max(0.0, value - before.get(name, 0.0))
            self._totals[one.name] = one.said.boot, one.said.totals
        names = {one.name for one in ready}
        for gone in self._totals.keys() - names:
            del self._totals[gone]
        self.signals.answered(now, round(more.get("requests", 0)), round(more.get("output_tokens", 0)))
        self.signals.streamed(now, round(more.get("itl_n", 0)), more.get("itl_s", 0.0) * 1000)
        return more

    def _reading(self, ready: Sequence[Replica], name: str) -> Reading:
        return reading([Gauge(_gauge(one.said, name), 0) for one in ready if one.said], len(ready))

    def _load(self, now: int, ready: Sequence[Replica], pages: Mapping[str, Page] | None) -> Reading | None:
        if self.metric == "requests_in_flight":
            if pages is None:
                both = [Gauge(one.said.running + one.said.waiting, 0) for one in ready if one.said]
                return reading(both, len(ready))
            if not pages:
                return None
            flight = {one.address: 0 for one in ready}
            for page in pages.values():
                for address, count in page.in_flight.items():
                    flight[address] = flight.get(address, 0) + count
            return reading([Gauge(flight[one.address], 0) for one in ready], len(ready), self.held)
        if self.metric in ("ttft", "itl"):
            gauges = [Gauge(self._mean(now, one, self.metric), 0) for one in ready if one.said and one.said.totals]
            return reading(gauges, len(ready))
        return self._reading(ready, self.metric)

    def _mean(self, now: int, one: Replica, name: str) -> float:
        """Milliseconds, of the last minute; 0 while nothing came."""
        assert one.said
        rows = self._times.setdefault(one.name, deque())
        seconds, count = one.said.totals.get(f"{name}_s", 0.0), one.said.totals.get(f"{name}_n", 0.0)
        if rows and count < rows[-1][2]:
            rows.clear()
        rows.append((now, seconds, count))
        while rows[0][0] < now - _MINUTE:
            rows.popleft()
        more = count - rows[0][2]
        return (seconds - rows[0][1]) / more * 1000 if more else 0.0


def _gauge(said: Said | None, name: str) -> float:
    assert said
    if name == "requests_running":
        return said.running
    return said.waiting if name == "requests_waiting" else said.kv_used
