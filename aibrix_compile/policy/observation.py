"""What a scaler can see, what it remembers, and what a strategy asks for: the values between callers, strategies and bounds.

All of it is frozen: a decision reads these and the time, nothing else, and hands back the next `Memory`. What nobody can see
in a cluster is not here: no lengths of answers that have not ended, no load of a replica that did not report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import fsum
from typing import Literal, NamedTuple

from aibrix_compile.policy.quantities import PerReplica, Total
from aibrix_compile.policy.windows import EMPTY, SECOND, Peaks

STALE = 5 * SECOND
"""Older gauges count as missing."""
_BLIND = 30 * SECOND
"""A longer time without data breaks the evidence for scaling down."""

Limit = Literal[
    "min",
    "max",
    "schedule",
    "maxGPUs",
    "maxCostPerHour",
    "rate",
    "downWindow",
    "panic",
    "missing",
    "seasonal",
    "warmPool",
    "idle",
    "late",
]
"""Why a number is not what the load alone asks for."""


class Gauge(NamedTuple):
    """A replica's own word: `value`, and how old it is in microseconds. A latency of an idle replica is 0, not missing."""

    value: float
    age: int


@dataclass(frozen=True, slots=True)
class Reading:
    """A gauge over all ready replicas: the sum of those that report, and how many are silent (over a window: on average)."""

    total: Total
    silent: float = 0.0

    def most(self, each: PerReplica) -> Total:
        """The total if each silent replica had `each`; `total` itself takes them for idle."""
        return self.total.plus(each.times(self.silent))


def reading(gauges: Iterable[Gauge], ready: int, held: int = 0, stale: int = STALE) -> Reading:
    """Of the gauges of `ready` replicas, in any order, without those that are older than `stale`. `held`: requests that
    wait at the gateway, where the gauge counts requests that wait or are in flight."""
    fresh = [one.value for one in gauges if one.age <= stale]
    return Reading(Total(fsum(fresh) + held), max(0, ready - len(fresh)))


@dataclass(frozen=True, slots=True)
class Load:
    """The gauge that a strategy follows: now, and its means over the stable window, the panic window and 15 minutes."""

    now: Reading
    stable: Reading
    panic: Reading
    long: Reading

    def lost(self, ready: int) -> bool:
        """Whether none of `ready` replicas reports."""
        return 0 < ready <= self.now.silent


@dataclass(frozen=True, slots=True)
class Traffic:
    """Arrivals as the pickers count them, requests per second."""

    rate: float
    """Of the last minute."""
    slope: float
    """By how much the rate grows in a second: the last minute against the four before; 0 while that is not known."""
    burst: float
    """The rate of five minutes, and on it the largest excess of 30 s over it in the last 15 minutes."""
    long_rate: float
    """Of the last 15 minutes."""
    long_count: int
    """Requests in them."""
    idle: int
    """Microseconds since the last arrival, or since the watch began."""
    trend: float
    """Of the last five minutes."""
    trust: float = 1.0
    """How much of a slope comes true, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Mean tokens of a request: its prompt, how many of those were cached, and its answer, None before any has ended."""

    prompt: float
    cached: float
    output: float | None


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool as it is: `size` replicas are wanted (the live number, whoever wrote it), `ready` of them serve.

    `starting`: ages in microseconds of those that do not serve yet, as far as pods exist. Draining ones are in neither.
    """

    size: int
    ready: int
    starting: tuple[int, ...] = ()

    @property
    def serving(self) -> int:
        """Ready ones that shall stay."""
        return min(self.ready, self.size)

    def late(self, cold_start: int) -> int:
        """How many have been starting for twice the cold start and more: likely there is no node for them."""
        waiting = self.size - self.ready
        return min(max(0, waiting), sum(age >= 2 * cold_start for age in self.starting)) if cold_start else 0


@dataclass(frozen=True, slots=True)
class Memory:
    """What one decision leaves to the next; all times in microseconds. A controller that starts anew has an empty one and
    scales nothing down before a window has passed."""

    since: int | None = None
    """Data has come without a long gap since then."""
    last: int | None = None
    """When data came last."""
    up: int | None = None
    """When the number last rose."""
    peaks: Peaks = EMPTY
    """What was needed, or recommended."""
    panic: int | None = None
    """When kpa last saw a burst, while that still counts."""
    panic_size: int = 0
    """The most that was wanted in this panic."""
    changes: tuple[tuple[int, int], ...] = ()
    """hpa's last changes: (time, replicas more or fewer)."""

    def saw(self, now: int) -> Memory:
        """Data came at `now`."""
        broken = self.last is None or self.since is None or now - self.last > _BLIND
        return replace(self, since=now if broken else self.since, last=now)

    def settled(self, now: int, window: int) -> bool:
        """Whether a whole `window` of data has come since the number last rose."""
        if self.since is None:
            return False
        return now - (self.since if self.up is None else max(self.since, self.up)) >= window


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a service. `pools` in the order of the config's; what is None could not be seen."""

    pools: tuple[PoolState, ...]
    load: Load | None = None
    """Of the metric that the strategy follows."""
    traffic: Traffic | None = None
    in_flight: Total | None = None
    """Requests that have arrived and not ended, by the pickers' count."""
    held: int = 0
    """Requests that wait at the gateway for a replica; those that wait for an adapter need no more replicas."""
    waiting: Reading | None = None
    """Requests that wait in engines."""
    running: Reading | None = None
    """Sequences in the engines' batches, mean of the last minute."""
    tokens: Tokens | None = None
    itl_ms: float | None = None
    """Mean time between tokens in the last minute."""

    @property
    def size(self) -> int:
        return sum(one.size for one in self.pools)

    @property
    def ready(self) -> int:
        return sum(one.serving for one in self.pools)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a strategy asks for: at least `least` and at most `most` replicas of the first pool's speed. Between them the
    number stays as it is; equal ones are an order."""

    least: float
    most: float
    memory: Memory
    words: str
    limited_by: tuple[Limit, ...] = ()
