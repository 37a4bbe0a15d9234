"""How many tokens a tenant may still use: a bucket that fills as time passes.

Why so: what a request costs is only known when it has ended, so an estimate is taken at its start and corrected later, by
this picker or by another; a bucket takes corrections of both signs in any order and comes to the same. It holds a minute's
tokens. It may be owed: a request that costs more than a whole minute goes when the bucket is full, and the next waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

_MINUTE = 60_000_000  # microseconds


@dataclass(frozen=True, slots=True)
class Bucket:
    """`left` tokens at `since` microseconds; negative: owed."""

    left: float
    since: int


def full(per_minute: int, now: int) -> Bucket:
    return Bucket(per_minute, now)


def left(per_minute: int, bucket: Bucket, now: int) -> float:
    """Tokens at `now`; a `now` before the last one counts as the last one."""
    return min(per_minute, bucket.left + max(0, now - bucket.since) * per_minute / _MINUTE)


def spend(per_minute: int, bucket: Bucket, tokens: float, now: int) -> Bucket:
    """After `tokens` more; negative ones are given back, at most to the brim."""
    return Bucket(min(per_minute, left(per_minute, bucket, now) - tokens), max(now, bucket.since))


def wait_seconds(per_minute: int, bucket: Bucket, tokens: float, now: int) -> int:
    """Whole seconds until `tokens` can be taken; 0: now."""
    lacking = min(tokens, per_minute) - left(per_minute, bucket, now)
    return max(1, ceil(lacking * 60 / per_minute)) if lacking > 0 else 0
