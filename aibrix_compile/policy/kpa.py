"""Knative's scaler: an ordinary window for ordinary days and a short one that notices bursts.

The totals of both windows, over all replicas, are divided by what one replica should have. Where the short window asks for
twice what serves and more it is a panic: until a stable window after the last such moment the number only rises.

Knative's is exact but for its delay on the way down (`scale-down-delay`, 0 there): here the largest need of a stable window, or of a cold
start where that is longer, is followed. Without it the noise of a constant load moves the number fifty times an hour where the load lies at a
boundary, and each of these moves is a replica that takes minutes to come back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from aibrix_compile.policy.observation import Limit, Load, Memory, Wish
from aibrix_compile.policy.quantities import PerReplica, Total, whole
from aibrix_compile.policy.windows import SECOND

PANIC = 2.0  # times what serves
UP, DOWN = 1000, 2  # a decision asks for at most so many times what serves, and for at least this part of it


@dataclass(frozen=True, slots=True)
class Kpa:
    """Whoever makes the `Signals` gives them both windows."""

    metric: str
    target: PerReplica
    stable_window_seconds: int = 60
    panic_window_seconds: int = 6
    tolerance: float = 0.0
    """Band around the target in which nothing changes; Knative has none."""


def wanted(config: Kpa, total: Total, serving: int) -> int:
    """Replicas for one window's total while `serving` (at least one) serve."""
    return min(max(whole(total.replicas(config.target)), serving // DOWN), UP * serving)


def wish(
    config: Kpa,
    load: Load | None,
    ready: int,
    warm: int,
    size: float,
    cold_start_seconds: int,
    memory: Memory,
    now: int,
) -> Wish:
    """`size`: what serves and what starts, without the `warm` replicas that are kept on top; `ready` with them, since they
    meet a burst too. Silent replicas count as idle on the way up and as right on the way down."""
    if load is None or load.lost(ready):
        return Wish(0, inf, memory, f"{config.metric} unknown", ("missing",))
    window = config.stable_window_seconds * SECOND
    delay = max(window, cold_start_seconds * SECOND)
    there, serving = max(1, ready), max(1, ready - warm)
    stable, burst = load.stable.total, load.panic.total
    least, most = wanted(config, stable, serving), wanted(config, load.stable.most(config.target), serving)
    memory = memory.saw(now)
    memory = replace(memory, peaks=memory.peaks.push(now, max(least, most), delay))
    words = f"{config.metric} {stable.value:.4g} over all against {config.target.value:g} each: {least} wanted"
    over = whole(burst.replicas(config.target)) / there >= PANIC
    if over or (memory.panic is not None and now - memory.panic <= window):
        peak = max(memory.panic_size, least, wanted(config, burst, serving))
        memory = replace(memory, panic=now if over else memory.panic, panic_size=peak)
        limited: tuple[Limit, ...] = ("panic",) if most < size else ()
        return Wish(peak, inf, memory, f"{words}, {peak} in a panic ({burst.value:.4g} lately)", limited)
    memory = replace(memory, panic=None, panic_size=0)
    usage = stable.each(serving).against(config.target)
    if config.tolerance and usage.value > 1 - config.tolerance:
        within = usage.within(config.tolerance)
        return Wish(
            serving if within else least, inf, memory, f"{words}, within {config.tolerance:.0%}" if within else words
        )
    if not ready or (most < size and not memory.settled(now, delay)):
        return Wish(least, inf, memory, words, ("downWindow",) if ready else ())
    top = memory.peaks.top
    if most < size <= top:
        limited = ("downWindow",)
    else:
        limited = ("rate",) if most < size and whole(stable.replicas(config.target)) < serving // DOWN else ()
    return Wish(least, max(least, most, top), memory, words, limited)


def terms(config: Kpa, load: Load, ready: int, warm: int) -> dict[str, float]:
    stable, burst, serving = load.stable.total, load.panic.total, max(1, ready - warm)
    return {
        "stable total": stable.value,
        "panic total": burst.value,
        "target": config.target.value,
        "silent": load.stable.silent,
        "panic ratio": whole(burst.replicas(config.target)) / max(1, ready),
        "wanted": wanted(config, stable, serving),
        "wanted in panic": wanted(config, burst, serving),
        "wanted if the silent are right": wanted(config, load.stable.most(config.target), serving),
    }
