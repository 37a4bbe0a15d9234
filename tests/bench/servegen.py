"""Requests from ServeGen's published tables (arXiv 2505.09999): ten-minute rates of everybody, and of the largest clients their rates,
how unevenly they send and how long their prompts and answers are.

The tables' own requests are not public, so this draws some: a client of a window is a renewal process with gamma gaps of its cv, its
lengths come from its quantiles. What the large clients leave of the total comes as a Poisson process of all their lengths mixed.
"""

from __future__ import annotations

import csv
import gzip
import random
from bisect import bisect
from collections.abc import Iterator
from heapq import merge
from itertools import accumulate, pairwise
from pathlib import Path

from aibrix_compile.simulate.trace import SECOND, Request, Trace

WINDOW_S = 600
Quantiles = list[tuple[float, float]]


def trace(folder: Path, rate: float, first_hour: float, hours: float, seed: int = 1) -> Trace:
    """`rate`: requests per second on average, to which all published rates are scaled alike."""
    totals = {float(row["window_s"]): float(row["rate_rps"]) for row in _rows(folder / "total.csv.gz")}
    begin, end = first_hour * 3600, (first_hour + hours) * 3600
    there = {at: value for at, value in totals.items() if begin <= at < end}
    scale = rate * len(there) / sum(there.values())
    lengths: dict[str, dict[str, Quantiles]] = {}
    for row in _rows(folder / "lengths.csv.gz"):
        marks = [(0.05, "p5"), (0.25, "p25"), (0.5, "p50"), (0.75, "p75"), (0.9, "p90"), (0.95, "p95"), (0.99, "p99")]
        lengths.setdefault(row["client"], {})[row["kind"]] = [(share, float(row[name])) for share, name in marks]
    clients: dict[float, list[tuple[str, float, float]]] = {at: [] for at in there}
    for row in _rows(folder / "clients.csv.gz"):
        at = float(row["window_s"])
        if at in clients:
            clients[at].append((row["client"], float(row["rate_rps"]) * scale, float(row["cv"] or 1)))

    def requests() -> Iterator[Request]:
        chance = random.Random(seed)
        ends: dict[str, float] = {}
        for at in sorted(there):
            rest = max(0.0, there[at] * scale - sum(one[1] for one in clients[at]))
            streams = [_renewal(name, each, cv, at - begin, ends, chance) for name, each, cv in clients[at]]
            streams.append(_renewal("", rest, 1.0, at - begin, ends, chance))
            names = list(lengths)
            weights = list(accumulate(sum(each for who, each, _ in clients[at] if who == name) for name in names))
            for when, name in merge(*streams):
                who = (
                    name
                    if name in lengths
                    else names[min(bisect(weights, chance.random() * weights[-1]), len(names) - 1)]
                )
                given, asked = lengths[who]["input_tokens"], lengths[who]["output_tokens"]
                yield Request(round(when * SECOND), _drawn(given, chance), _drawn(asked, chance))

    return Trace(folder.name, requests)


def _renewal(
    name: str, rate: float, cv: float, start: float, ends: dict[str, float], chance: random.Random
) -> Iterator[tuple[float, str]]:
    """Arrivals of one client in a window. `ends`: when its last gap ends, where that is past the window."""
    if rate <= 0:
        return
    shape = 1 / max(cv, 0.1) ** 2
    now = ends.pop(name, -1.0)
    if now < start:
        now = start + chance.random() * chance.gammavariate(shape, 1 / (shape * rate))
    while now < start + WINDOW_S:
        yield now, name
        now += chance.gammavariate(shape, 1 / (shape * rate))
    ends[name] = now


def _drawn(quantiles: Quantiles, chance: random.Random) -> int:
    """Between two quantiles on a line; below the first and above the last the same."""
    share = chance.random()
    for (low, before), (high, after) in pairwise(quantiles):
        if share < high:
            return max(1, round(before + (after - before) * max(0.0, share - low) / (high - low)))
    return max(1, round(quantiles[-1][1]))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as file:
        yield from csv.DictReader(file)
