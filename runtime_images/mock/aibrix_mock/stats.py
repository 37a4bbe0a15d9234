"""What the engine counts. Why it exists: the core must not know Prometheus, and a step of 256 sequences must not lock and
bisect 256 times; `metrics` turns these numbers into the page that vLLM serves."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
FIRST_TOKEN = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
ITERATION = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
SMALL, PREEMPTIONS = (1, 2, 5, 10, 20), (1, 2, 3, 4, 5, 10, 20)
REASONS = ("stop", "length", "abort", "error", "repetition")
REJECTIONS = ("max_num_queued_reqs", "max_num_queued_tokens")


def lengths(longest: int) -> tuple[int, ...]:
    """1, 2, 5, 10 ... up to `longest`: the buckets of every histogram of tokens per request."""
    return tuple(m * 10**e for e in range(12) for m in (1, 2, 5) if m * 10**e <= longest)


class Histogram:
    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Stats:
    """Counters and histograms since the engine started; times are seconds of simulated time."""

    def __init__(self, longest: int) -> None:
        """`longest`: the longest context, which ends the buckets of token counts."""
        tokens = lengths(longest)
        self.prompt_tokens = self.cached_tokens = self.generated_tokens = 0
        self.prefix_queries = self.prefix_hits = 0
        self.preemptions = 0
        self.finished = dict.fromkeys(REASONS, 0)
        self.rejected = dict.fromkeys(REJECTIONS, 0)
        self.first_token = Histogram(FIRST_TOKEN)
        self.between_tokens, self.per_token = Histogram(TOKEN), Histogram(TOKEN)
        self.whole, self.queued, self.inference = Histogram(LATENCY), Histogram(LATENCY), Histogram(LATENCY)
        self.prefill, self.decode = Histogram(LATENCY), Histogram(LATENCY)
        self.iteration = Histogram(ITERATION)
        self.prompt, self.generation, self.computed = Histogram(tokens), Histogram(tokens), Histogram(tokens)
        self.max_tokens, self.max_generation = Histogram(tokens), Histogram(tokens)
        self.choices, self.preempted = Histogram(SMALL), Histogram(PREEMPTIONS)
