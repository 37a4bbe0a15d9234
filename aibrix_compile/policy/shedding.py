"""Which class of requests is turned away while a service is saturated: the lowest first.

Why so: engines serve what waits in them in order of arrival, so a batch job that is let in makes every interactive request
behind it wait. A request is therefore worth more outside than in an engine's queue, the more so the lower its class.

    fill = requests in flight / seats, over the replicas that could take the request
    seats of a replica: its batch size; of one whose KV cache is full, what it runs now, as more would be preempted

The lowest class is shed from 1: a request more has no seat. The highest is shed from 2: as much waits as runs, so it would wait
as long as a whole answer takes and a retry loses nothing. Classes between them are shed evenly in between; a service with one
class has the highest alone. No memory: what is shed lowers the fill at once.
"""

from __future__ import annotations

from collections.abc import Iterable

SEATED, QUEUED = 1.0, 2.0


def rank(classes: tuple[str, ...], name: str) -> int:
    """0 is the highest; what has no known class is in the lowest."""
    return classes.index(name) if name in classes else len(classes) - 1


def threshold(classes: int, rank: int) -> float:
    """Fill from which a class is shed."""
    return QUEUED - (QUEUED - SEATED) * rank / (classes - 1) if classes > 1 else QUEUED


def fill(replicas: Iterable[tuple[int, int, int, bool]]) -> float:
    """Of (requests in flight, running in the engine, batch size, KV cache is full) each; 0 of no replica."""
    load = seats = 0
    for in_flight, running, size, full in replicas:
        load += in_flight
        seats += max(1, running) if full else size
    return load / seats if seats else 0.0


def sheds(classes: int, rank: int, fill: float) -> bool:
    return fill >= threshold(classes, rank)
