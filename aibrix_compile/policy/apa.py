"""AIBrix's scaler, as it was meant: follows the mean of each replica, with a band around the target in which nothing changes.

Above the band at once, to at most twice what serves; below it only after a whole window in which less was enough, to at least
half. The mean is a total over the stable window through what serves now, so that a replica that has just come is not forgotten.

The formula is AIBrix's (podautoscaler/algorithm). Around it three things differ: n is what serves, since with what still starts in it the same
load asks for the same replicas again at each look; below the band a whole window must agree, since one quiet look would take away what
costs minutes to bring back; and the band is the same up and down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from aibrix_compile.policy.observation import Limit, Load, Memory, Wish
from aibrix_compile.policy.quantities import EPSILON, PerReplica, whole
from aibrix_compile.policy.windows import SECOND

UP, DOWN = 2, 2  # to at most so many times what serves, and to at least this part of it


@dataclass(frozen=True, slots=True)
class Apa:
    metric: str
    target: PerReplica
    tolerance: float = 0.1
    down_window_seconds: int = 300


def wanted(config: Apa, mean: PerReplica, ready: int) -> int:
    """Replicas while `ready` (at least one) have `mean` each."""
    usage = mean.against(config.target)
    if usage.within(config.tolerance):
        return ready
    found = whole(usage.of(ready))
    return min(found, UP * ready) if usage.value > 1 else max(found, ready // DOWN)


def wish(
    config: Apa, load: Load | None, ready: int, size: float, cold_start_seconds: int, memory: Memory, now: int
) -> Wish:
    """`size`: what serves and what starts. Silent replicas count as idle on the way up and as right on the way down. Down
    after the window, or twice the cold start if that is longer."""
    if load is None or load.lost(ready):
        return Wish(0, inf, memory, f"{config.metric} unknown", ("missing",))
    window = max(config.down_window_seconds, 2 * cold_start_seconds) * SECOND
    serving = max(1, ready)
    mean = load.stable.total.each(serving)
    up = wanted(config, mean, serving)
    down = wanted(config, load.stable.most(config.target).each(serving), serving)
    # below the band fewer do; else the present number is right, whatever of it still starts
    needed = down if down < serving else max(size, up)
    memory = replace(memory.saw(now), peaks=memory.peaks.push(now, needed, window))
    words = f"{config.metric} {mean.value:.4g} each against {config.target.value:g}: {up} wanted"
    capped = up == UP * serving and mean.against(config.target).of(serving) > up + EPSILON
    limited: tuple[Limit, ...] = ("rate",) if capped else ()
    if ready and memory.settled(now, window):
        return Wish(up, max(up, memory.peaks.top), memory, words, limited)
    return Wish(up, inf, memory, words, (*limited, "downWindow") if ready and needed < size else limited)


def terms(config: Apa, load: Load, ready: int) -> dict[str, float]:
    serving = max(1, ready)
    mean = load.stable.total.each(serving)
    return {
        "mean": mean.value,
        "target": config.target.value,
        "usage": mean.against(config.target).value,
        "silent": load.stable.silent,
        "wanted": wanted(config, mean, serving),
        "wanted if the silent are right": wanted(config, load.stable.most(config.target).each(serving), serving),
    }
