"""What Kubernetes' HorizontalPodAutoscaler does with a pods metric and an average target, so that `simulate` can show it.

After the documentation of autoscaling/v2 and checked against the source of its replica calculator: 10 % tolerance; silent
replicas count as right on the way down and as idle on the way up, replicas that do not serve yet as idle on the way up, and if
that turns the direction nothing happens; of the recommendations of the last 300 s the largest is followed down; then come the
rates. Kubernetes has one object for each workload and looks every 15 s, so a config has one pool and is decided as often.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from aibrix_compile.policy.observation import Limit, Load, Memory, Reading, Wish
from aibrix_compile.policy.quantities import PerReplica, whole
from aibrix_compile.policy.windows import SECOND


@dataclass(frozen=True, slots=True)
class Rate:
    """A policy of `behavior`: so many pods, or percent of the size before the period, within `seconds`."""

    kind: Literal["Pods", "Percent"]
    value: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Hpa:
    """`up` and `down` as in `behavior`, of which the one that allows most holds; Kubernetes' defaults here."""

    metric: str
    target: PerReplica
    tolerance: float = 0.1
    up: tuple[Rate, ...] = (Rate("Percent", 100, 15), Rate("Pods", 4, 15))
    down: tuple[Rate, ...] = (Rate("Percent", 100, 15),)
    down_window_seconds: int = 300


def recommended(config: Hpa, reading: Reading, ready: int, size: int) -> int | None:
    """By the metric alone, of `size` replicas, `ready` of which serve. None: it can not be known, and the size stays."""
    silent = round(reading.silent)
    known, starting = ready - silent, max(0, size - ready)
    if known <= 0:
        return None
    usage = reading.total.each(known).against(config.target)
    up = usage.value > 1
    if not silent and not (up and starting):
        return size if usage.within(config.tolerance) else whole(usage.of(known))
    counted = known + silent + (starting if up else 0)
    filled = (reading.total if up else reading.most(config.target)).each(counted).against(config.target)
    found = whole(filled.of(counted))
    turned = (filled.value > 1) != up or (found < size if up else found > size)
    return size if turned or filled.within(config.tolerance) else found


def wish(config: Hpa, load: Load | None, ready: int, size: int, memory: Memory, now: int) -> Wish:
    """The number for the one pool, after stabilisation and rates."""
    window = config.down_window_seconds * SECOND
    if not memory.peaks.entries:
        memory = replace(memory, peaks=memory.peaks.push(now, size, window))
    found = recommended(config, load.now, ready, size) if load else None
    if load is None or found is None:
        return Wish(0, inf, memory, f"{config.metric} unknown", ("missing",))
    peaks = memory.peaks.push(now, found, window)
    limited: tuple[Limit, ...] = ()
    value = found
    if found < size:
        value = min(size, int(peaks.top))
        lowest = _lowest(config.down, memory.changes, size, now)
        limited = ("downWindow",) if value > found else ()
        if value < lowest:
            value, limited = lowest, (*limited, "rate")
    elif found > size:
        highest = _highest(config.up, memory.changes, size, now)
        if value > highest:
            value, limited = highest, ("rate",)
    words = f"{config.metric} {load.now.total.value:.4g} over all against {config.target.value:g} each: {found} wanted"
    return Wish(value, value, replace(memory, peaks=peaks), words, limited)


def terms(config: Hpa, load: Load, ready: int, size: int, memory: Memory, now: int) -> dict[str, float]:
    found = recommended(config, load.now, ready, size)
    return {
        "total": load.now.total.value,
        "target": config.target.value,
        "silent": load.now.silent,
        "wanted": size if found is None else found,
        "most of the last recommendations": max(memory.peaks.top, size if found is None else found),
        "highest by rate": _highest(config.up, memory.changes, size, now),
        "lowest by rate": _lowest(config.down, memory.changes, size, now),
    }


def remember(config: Hpa, memory: Memory, now: int, change: int) -> Memory:
    """With a change of the size at `now`, for as long as a rate looks back."""
    oldest = now - max((one.seconds for one in (*config.up, *config.down)), default=0) * SECOND
    kept = tuple(one for one in memory.changes if one[0] > oldest)
    return replace(memory, changes=(*kept, (now, change)) if change else kept)


def _highest(rates: Iterable[Rate], changes: Iterable[tuple[int, int]], size: int, now: int) -> int:
    """That the rates allow, never below `size`."""
    found = [size]
    for rate in rates:
        start = _start(rate, changes, size, now)
        found.append(start + rate.value if rate.kind == "Pods" else whole(start * (1 + rate.value / 100)))
    return max(found)


def _lowest(rates: Iterable[Rate], changes: Iterable[tuple[int, int]], size: int, now: int) -> int:
    found = [size]
    for rate in rates:
        start = _start(rate, changes, size, now)
        found.append(start - rate.value if rate.kind == "Pods" else int(start * (1 - rate.value / 100)))
    return min(found)


def _start(rate: Rate, changes: Iterable[tuple[int, int]], size: int, now: int) -> int:
    """The size when the rate's period began."""
    return size - sum(change for when, change in changes if when > now - rate.seconds * SECOND)
