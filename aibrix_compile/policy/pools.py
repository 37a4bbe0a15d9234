"""From how much capacity is wanted to how many replicas of which pool, within every limit.

The cheapest pool grows first and the dearest shrinks first, from the numbers as they are: a steady load moves nothing from one
pool to another. A replica of a faster pool counts for more. What a limit took away is named, never silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

from aibrix_compile.policy.observation import Limit, PoolState
from aibrix_compile.policy.profile import Profile
from aibrix_compile.policy.quantities import EPSILON, whole
from aibrix_compile.policy.windows import SECOND

_MONEY = 1_000_000  # prices are compared in whole millionths


@dataclass(frozen=True, slots=True)
class Pool:
    """Identical replicas: `low` to `high` of them, with `gpus` GPUs and a price each."""

    name: str
    low: int
    high: int
    gpus: int = 1
    cost_per_hour: float | None = None
    """Of one replica; None where nobody knows it, which no budget of money then limits."""
    cold_start_seconds: int = 0
    """From a decision to a serving replica."""
    spot: bool = False
    profile: Profile | None = None


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `most` of something of which a replica of pool i takes `each[i]`. Pools' own `low` are kept all the same."""

    name: Limit
    most: int
    each: tuple[int, ...]

    def left(self, counts: Sequence[int]) -> int:
        return self.most - sum(count * each for count, each in zip(counts, self.each, strict=True))


def caps(pools: Sequence[Pool], high: int | None, max_gpus: int, max_cost_per_hour: float) -> list[Cap]:
    """Of the service: a schedule's `high`, and a budget; 0 is no limit."""
    found = []
    if high is not None:
        found.append(Cap("schedule", high, (1,) * len(pools)))
    if max_gpus:
        found.append(Cap("maxGPUs", max_gpus, tuple(pool.gpus for pool in pools)))
    if max_cost_per_hour:
        each = tuple(round((pool.cost_per_hour or 0.0) * _MONEY) for pool in pools)
        found.append(Cap("maxCostPerHour", round(max_cost_per_hour * _MONEY), each))
    return found


def preferred(pools: Sequence[Pool], speeds: Sequence[float]) -> list[int]:
    """Indices: the cheapest for what it does first, spot before on-demand at one price, then as written. If a price is
    unknown prices say nothing."""
    priced = all(pool.cost_per_hour is not None for pool in pools)

    def rank(index: int) -> tuple[float, bool, int]:
        pool = pools[index]
        return (pool.cost_per_hour or 0.0) / speeds[index] if priced else 0.0, not pool.spot, index

    return sorted(range(len(pools)), key=rank)


class Fitting:
    """The replicas of each pool on their way from what they are to what they shall be. Limits come first (`obey`), then what
    is asked for (`within`), then the fewest replicas of the service (`floor`)."""

    __slots__ = ("_lates", "_limits", "_order", "_pools", "_speeds", "counts", "hits")

    def __init__(
        self, pools: Sequence[Pool], states: Sequence[PoolState], speeds: Sequence[float], limits: Sequence[Cap]
    ) -> None:
        """`speeds`: of a replica of each pool, in replicas of the first."""
        self._pools, self._speeds, self._limits = pools, speeds, limits
        self._order = preferred(pools, speeds)
        pairs = list(zip(pools, states, strict=True))
        self._lates = [state.late(pool.cold_start_seconds * SECOND) for pool, state in pairs]
        self.counts = [min(max(state.size, pool.low), pool.high) for pool, state in pairs]
        self.hits: dict[Limit, None] = {}
        """What kept the numbers from what was asked for, in the order in which it did."""
        for pool, state in pairs:
            if state.size < pool.low:
                self.hits["min"] = None
            elif state.size > pool.high:
                self.hits["max"] = None

    @property
    def capacity(self) -> float:
        """In replicas of the first pool: what serves, and what starts and will serve soon. What is late is not counted."""
        found = zip(self.counts, self._lates, self._speeds, strict=True)
        return fsum(max(0, count - late) * speed for count, late, speed in found)

    def obey(self) -> None:
        """The dearest replicas go until every limit holds."""
        for cap in self._limits:
            over = -cap.left(self.counts)
            for index in reversed(self._order):
                if over > 0 and cap.each[index]:
                    drop = min(self.counts[index] - self._pools[index].low, -(-over // cap.each[index]))
                    self.counts[index] -= drop
                    over -= drop * cap.each[index]
                    self.hits[cap.name] = None

    def within(self, least: float, most: float, floor: int) -> None:
        """At least `least` and at most `most` capacity, and at least `floor` replicas, with the fewest changes."""
        have = self.capacity
        if have < least - EPSILON:
            self._grow(least - have, self._speeds)
        elif have > most + EPSILON:
            self._shrink(have - most, floor)

    def floor(self, replicas: int, name: Limit) -> None:
        """At least so many replicas, whatever their speed."""
        missing = replicas - sum(self.counts)
        if missing > 0:
            self.hits[name] = None
            self._grow(missing, (1.0,) * len(self.counts))

    def _grow(self, missing: float, speeds: Sequence[float]) -> None:
        """The cheapest pool first. One whose replicas are late does not grow, so the next one does."""
        met: dict[Limit, None] = {}
        for index in self._order:
            if missing <= EPSILON:
                return
            if self._lates[index]:
                met["late"] = None
                continue
            wanted, room = whole(missing / speeds[index]), self._pools[index].high - self.counts[index]
            if room < wanted:
                met["max"] = None
            add = min(wanted, room)
            for cap in self._limits:
                if cap.each[index]:
                    left = max(0, cap.left(self.counts) // cap.each[index])
                    if left < min(wanted, room):
                        met[cap.name] = None
                    add = min(add, left)
            self.counts[index] += add
            missing -= add * speeds[index]
        if missing > EPSILON:
            self.hits |= met

    def _shrink(self, spare: float, floor: int) -> None:
        """The dearest pool first; in it what is late, which serves nothing."""
        for index in reversed(self._order):
            late = self._lates[index]
            wanted = late + int((spare + EPSILON) / self._speeds[index])
            drop = max(0, min(wanted, self.counts[index] - self._pools[index].low, sum(self.counts) - floor))
            self.counts[index] -= drop
            spare -= max(0, drop - late) * self._speeds[index]
        if spare + EPSILON >= min(self._speeds):
            self.hits["min"] = None
