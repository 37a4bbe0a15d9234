"""Requests that nobody recorded: a rate with a daily curve and bursts, conversations over shared prompts, adapters by Zipf.

Why: most specs come without a trace, and a question like "twice the conversations, of twice the turns" has none. What is asked
for are the means of what comes out: `rate` counts requests (turns), `input_tokens` whole prompts with everything said before.

Conversations begin as a renewal process whose time runs with the rate: its steps are Gamma numbers (cv 1: Poisson). A
conversation goes on after each turn with the same chance, so that those that are under way when the trace begins can be drawn
too: the load is even from the first second. Lengths are 1 + lognormal numbers, rounded by chance, which keeps their mean.

Everything random comes from `random()` of two generators, one for arrivals and one for contents, by transforms that stand
here: other methods of `random` differ between Python versions. So arrivals stay when lengths change.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate
from math import cos, exp, inf, log, pi, sin, sqrt
from random import Random

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.simulate.trace import MOST_SECONDS, MOST_TOKENS, SECOND, Request, Trace

_STEPS = 288  # of the daily curve: five minutes of a day
_MOST_UNDER_WAY = 1_000_000  # 0.3 GB
_P95 = 1.6448536269514722  # standard deviations, of the normal distribution
_Draw = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is generated. Defaults for lengths are those of Azure's conversations of 2023 (cv 0.97 and 0.81), which come
    nearly as a Poisson process (cv 1.08)."""

    seconds: float
    rate: float
    """Requests per second, the mean over a whole period."""
    input_tokens: float
    """Mean of whole prompts: system prompt, what was said before, the new question."""
    output_tokens: float
    input_cv: float = 1.0
    """Standard deviation over mean, of new questions."""
    output_cv: float = 0.8

    swing: float = 0.0
    """The rate is a sine of this amplitude about its mean, as a share of it: 0.5 goes from half to one and a half."""
    period_s: float = 86_400.0
    peak_s: float = 0.0
    """When the rate is at its highest."""
    arrival_cv: float = 1.0
    """Of the times between conversations; 0: like a clock, above 1: in clusters."""
    bursts_per_hour: float = 0.0
    burst_s: float = 60.0
    """Mean length of a burst; lengths and pauses are exponential."""
    burst_factor: float = 3.0
    """Rate in a burst over the rate outside; `rate` remains the mean of both."""

    turns: float = 1.0
    """Mean requests of a conversation, a geometric number."""
    think_s: float = 30.0
    """Mean time from one request to the next of its conversation, exponential."""
    system_tokens: int = 0
    """First tokens of every prompt, the same for all conversations of a tenant and adapter."""
    tenants: int = 1
    adapters: tuple[str, ...] = ()
    """By falling popularity."""
    adapter_share: float = 1.0
    """Of conversations that use an adapter."""
    zipf: float = 1.0
    """The k-th tenant and the k-th adapter are chosen in proportion to k^-zipf."""
    block_tokens: int = 64
    longest: int = 131_072
    """Tokens of a prompt and its answer: a conversation that would become longer ends."""


def default(input_tokens: float, output_tokens: float, requests_per_second: float, seconds: float, seed: int) -> Trace:
    """A steady load of single requests, from the three numbers of a spec's `workload`."""
    options = Options(seconds=seconds, rate=requests_per_second, input_tokens=input_tokens, output_tokens=output_tokens)
    return generate(options, seed)


def cv_of_p95(mean: float, p95: float) -> float:
    """The coefficient of variation of a lognormal number with this mean and 95th percentile: with s its logarithm's
    standard deviation, ln(p95 / mean) = 1.645 s - s^2 / 2. UsageError where there is none: p95 is at most 3.86 means."""
    ratio = log(p95 / mean) if 0 < mean <= p95 else inf
    if ratio > _P95 * _P95 / 2:
        raise UsageError(
            f"no lognormal distribution has a mean of {mean:g} and a p95 of {p95:g}; p95 is 1 to 3.86 times the mean"
        )
    sigma = _P95 - sqrt(_P95 * _P95 - 2 * ratio)
    return sqrt(exp(sigma * sigma) - 1)


def generate(options: Options, seed: int) -> Trace:
    """The trace of these options; equal options and seeds give equal requests. UsageError where the options contradict
    each other or leave their limits."""
    _check(options, seed)
    unit = options.block_tokens if options.turns > 1 or options.system_tokens else 0
    return Trace(f"generated, seed {seed}", lambda: _requests(options, seed, unit), unit)


def _requests(options: Options, seed: int, unit: int) -> Iterator[Request]:
    arrivals, random = Random(2 * seed).random, Random(2 * seed + 1).random
    normal = _normals(random)
    question = _lengths(_question(options), options.input_cv, random, normal)
    answer = _lengths(options.output_tokens, options.output_cv, random, normal)
    goes_on, think = 1 - 1 / options.turns, options.think_s * SECOND
    system, longest, tenants = options.system_tokens, options.longest, options.tenants
    shared = system // unit if unit else 0
    names = ("", *options.adapters)
    pick_tenant, pick_adapter = _zipf(tenants, options.zipf), _zipf(len(options.adapters), options.zipf)
    fresh = len(names) * tenants * shared  # the ids below are those of system prompts

    def begun() -> tuple[int, range]:
        """A new conversation's adapter and the blocks of its system prompt."""
        adapter = 1 + pick_adapter(random()) if options.adapters and random() < options.adapter_share else 0
        first = (adapter * tenants + (pick_tenant(random()) if tenants > 1 else 0)) * shared
        return adapter, range(first, first + shared)

    waiting: list[tuple[int, int, int, tuple[int, ...], int]] = []
    """A heap of next turns: time, conversation, tokens before the question, ids of whole blocks so far, adapter."""
    session = 0
    if goes_on:
        # as many as begin during their mean pause, each with a geometric number of turns behind it
        rate = options.rate * (1 + options.swing * cos(2 * pi * options.peak_s / options.period_s))
        for _ in range(round(rate * goes_on * options.think_s)):
            adapter, ids = begun()
            tokens = system + question() + answer()
            while random() < goes_on and tokens < longest:
                tokens += question() + answer()
            heappush(waiting, (round(_exponential(random) * think), session, tokens, tuple(ids), adapter))
            session += 1
    end = round(options.seconds * SECOND)
    for start in _starts(options, arrivals):
        if start < end:
            adapter, ids = begun()
            heappush(waiting, (start, session, system, tuple(ids), adapter))
            session += 1
        until = min(start, end - 1)
        while waiting and waiting[0][0] <= until:
            at, number, before, whole, adapter = heappop(waiting)
            tokens, output = before + question(), answer()
            if tokens + output > longest:
                if before > system:
                    continue
                output = min(output, longest // 2)
                tokens = min(tokens, longest - output)
            blocks: tuple[int, ...] = ()
            if unit:
                more = tokens // unit - len(whole)
                whole = (*whole, *range(fresh, fresh + more))
                fresh += more
                blocks = whole
                if tokens % unit:
                    blocks, fresh = (*whole, fresh), fresh + 1
            yield Request(at, tokens, output, blocks, names[adapter], number if goes_on else -1)
            if goes_on and random() < goes_on:
                following = at + round(_exponential(random) * think)
                heappush(waiting, (following, number, tokens + output, whole, adapter))


def _starts(options: Options, random: _Draw) -> Iterator[int]:
    """Microseconds at which conversations begin, and at last the end of the trace."""
    gap, now = _gaps(options.arrival_cv, random), 0.0
    need = gap()
    for end, rate in _rates(options, random):
        while need < rate * (end - now):
            now += need / rate
            yield round(now * SECOND)
            need = gap()
        need -= rate * (end - now)
        now = end
    yield round(options.seconds * SECOND)


def _rates(options: Options, random: _Draw) -> Iterator[tuple[float, float]]:
    """(end in seconds, conversations per second until then); of a sine what it is in the middle of the step."""
    busy_share = options.bursts_per_hour * options.burst_s / 3600
    calm = options.rate / options.turns / (1 + busy_share * (options.burst_factor - 1))
    step, steps = (options.period_s / _STEPS if options.swing else inf), 1
    busy, change, now = False, inf, 0.0
    if busy_share:
        pause_s = 3600 / options.bursts_per_hour - options.burst_s
        busy = random() < busy_share
        change = _exponential(random) * (options.burst_s if busy else pause_s)
    while now < options.seconds:
        end = min(step * steps, change, options.seconds)
        rate = calm * options.burst_factor if busy else calm
        if options.swing:
            rate *= 1 + options.swing * cos(2 * pi * ((now + end) / 2 - options.peak_s) / options.period_s)
        yield end, rate
        if end == change:
            busy = not busy
            change = end + _exponential(random) * (options.burst_s if busy else pause_s)
        steps += end == step * steps
        now = end


def _exponential(random: _Draw) -> float:
    """Of mean 1."""
    return -log(1 - random())


def _normals(random: _Draw) -> _Draw:
    """Standard normal numbers, by Box and Muller."""
    spare: list[float] = []

    def draw() -> float:
        if spare:
            return spare.pop()
        radius, angle = sqrt(-2 * log(1 - random())), 2 * pi * random()
        spare.append(radius * sin(angle))
        return radius * cos(angle)

    return draw


def _gaps(cv: float, random: _Draw) -> _Draw:
    """Gamma numbers of mean 1, by Marsaglia and Tsang; a shape below 1 by that of 1 more."""
    if not cv:
        return lambda: 1.0
    if cv == 1:
        return lambda: _exponential(random)
    shape, normal = 1 / (cv * cv), _normals(random)
    d = (shape if shape >= 1 else shape + 1) - 1 / 3
    c = 1 / sqrt(9 * d)

    def draw() -> float:
        while True:
            x = normal()
            v = (1 + c * x) ** 3
            if v > 0 and log(1 - random()) < x * x / 2 + d - d * v + d * log(v):
                return d * v / shape * (1.0 if shape >= 1 else (1 - random()) ** (1 / shape))

    return draw


def _lengths(mean: float, cv: float, random: _Draw, normal: _Draw) -> Callable[[], int]:
    """Numbers of tokens, at least 1."""
    above = mean - 1
    if not cv or above <= 0:
        return lambda: 1 + int(above + random())
    sigma = sqrt(log(1 + (cv * mean / above) ** 2))
    mu = log(above) - sigma * sigma / 2
    return lambda: 1 + int(exp(mu + sigma * normal()) + random())


def _zipf(count: int, exponent: float) -> Callable[[float], int]:
    """From a number in [0, 1) to one of `count` things, the first the most likely."""
    sums = list(accumulate((k + 1) ** -exponent for k in range(count)))
    return lambda chance: min(bisect_right(sums, chance * sums[-1]), count - 1)


def _question(options: Options) -> float:
    """Mean tokens of a question. Of geometric conversations of mean n, a turn has n - 1 turns before it on average, so
    input = system + n question + (n - 1) answer."""
    said = (options.turns - 1) * options.output_tokens
    return (options.input_tokens - options.system_tokens - said) / options.turns


_LIMITS = {
    **dict.fromkeys(("seconds", "period_s"), (1e-3, MOST_SECONDS)),
    **dict.fromkeys(("burst_s", "think_s", "peak_s"), (0, MOST_SECONDS)),
    **dict.fromkeys(("input_tokens", "output_tokens"), (1, MOST_TOKENS)),
    **dict.fromkeys(("input_cv", "output_cv", "arrival_cv"), (0, 20)),
    **dict.fromkeys(("swing", "adapter_share"), (0, 1)),
    "rate": (1e-6, 1e6),
    "bursts_per_hour": (0, 3600),
    "burst_factor": (0, 1000),
    "turns": (1, 1000),
    "system_tokens": (0, MOST_TOKENS),
    "tenants": (1, 1_000_000),
    "zipf": (0, 10),
    "block_tokens": (1, 1_000_000),
    "longest": (2, MOST_TOKENS),
}


def _check(options: Options, seed: int) -> None:
    for name, (low, high) in _LIMITS.items():
        value = getattr(options, name)
        if not low <= value <= high:
            raise UsageError(f"{name} is {value:g}; it must be {low:g} to {high:g}")
    if seed < 0:
        raise UsageError(f"the seed is {seed}; it must be 0 or more")
    if options.bursts_per_hour * options.burst_s >= 3600:
        raise UsageError(f"{options.bursts_per_hour:g} bursts of {options.burst_s:g} s leave no pause in an hour")
    under_way = options.rate * options.think_s * (1 - 1 / options.turns)
    if under_way > _MOST_UNDER_WAY:
        raise UsageError(f"{under_way:g} conversations would be under way at once; at most {_MOST_UNDER_WAY:,} can be")
    if options.system_tokens > options.longest // 2 - 1:
        raise UsageError(
            f"a system prompt of {options.system_tokens} tokens leaves too little of longest, {options.longest}"
        )
    if _question(options) < 1:
        least = options.system_tokens + options.turns + (options.turns - 1) * options.output_tokens
        raise UsageError(
            f"prompts of {options.input_tokens:g} tokens can not hold what comes before their questions: a system prompt of"
            f" {options.system_tokens} and {options.turns - 1:g} earlier turns; input_tokens must be {least:g} or more"
        )
