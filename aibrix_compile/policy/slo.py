"""Our scaler: how many seconds of an engine the arriving requests will take, so that the objectives hold.

A request costs the prefill of what is not cached, and its share of the decode steps of the largest batch whose steps keep the
ITL objective:

    s = (miss cf + ca miss (in - miss/2) + out T(b*)/b*) / 1000     [engine-seconds; without a cache the square is in^2/2]
    b* = the largest batch in 0.85 of the KV cache with T(b*) <= 0.8 x ITL
    growth = trust x slope x (cold start + 30 s), at most the rate
    burst = 0.85 x (five minutes' rate + d x the largest excess of 30 s over it), d = min(1, 30 s / out T(b*))
    lambda = max(rate + growth, burst, a seasonal floor)
    need = (lambda + queued / 60) s corr / rho     [replicas of the first pool]

What is shorter than an answer is lost in the answers that are under way, hence d. Down goes the number only to the largest need of
a window; where the need falls, what is older than half of the window counts for what it would have fallen to since, else a long ramp down
would always be a window late. Slopes, up and down, count as far as they have lately come true (`policy.trust`).
`corr` is the ITL that is measured to the one that the profile predicts, within 0.7 and 1.5. All from means: of prompts that
came and of answers that ended. Until the first answer has ended, `need` is a lower bound and nothing is scaled down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import fsum, inf

from aibrix_compile.policy.observation import Limit, Memory, Observation, Tokens, Traffic, Wish
from aibrix_compile.policy.pools import Pool
from aibrix_compile.policy.profile import Profile, batch_limit, step_ms
from aibrix_compile.policy.windows import SECOND

KV_SHARE = 0.85
LATENCY_SHARE = 0.8  # of the ITL objective for a mean step; the rest is for what prefills add
BURST_SHARE = 0.85  # of the largest 30 s of the last 15 minutes
BURST_SECONDS = 30.0
LAG_SECONDS = 30  # the rate of a minute is that of half a minute ago
DRAIN_SECONDS = 60  # in which what is queued shall be served
LOWEST, HIGHEST = 0.7, 1.5  # of corr
PREFILL_SHARE = 0.5  # at most so much of the predicted ITL is prefill
SLACK = 0.3  # replicas; down only to what leaves so much room, or the next wave takes it back


@dataclass(frozen=True, slots=True)
class Objectives:
    """The tightest of each, milliseconds; None where the service has none."""

    ttft_ms: float | None = None
    itl_ms: float | None = None
    e2e_ms: float | None = None


NONE = Objectives()


@dataclass(frozen=True, slots=True)
class Slo:
    utilization: float = 0.7
    """rho, how full replicas may be."""
    down_window_seconds: int = 300


@dataclass(frozen=True, slots=True)
class Work:
    """The arithmetic of one decision, in the order in which it is done."""

    rate: float
    trust: float
    growth: float
    burst: float
    seasonal: float
    arrivals: float
    """lambda, requests per second."""
    request_seconds: float
    """s, of a replica of the first pool."""
    corr: float
    queued: float
    need: float
    fall: float
    """By how much the need falls in a second."""


def request_seconds(profile: Profile, tokens: Tokens, objectives: Objectives) -> float:
    """Seconds of one engine of `profile` that a mean request takes; with a batch of one where even that is too slow for the
    objective, and without the answer where its length is unknown."""
    miss, output = max(0.0, tokens.prompt - tokens.cached), tokens.output or 0.0
    prefill = miss * (profile.token_ms + profile.sync_token_ms)
    prefill += profile.attention_ms * miss * (tokens.prompt - miss / 2)
    if not output:
        return prefill / 1000
    batch, step = _step(profile, tokens, objectives)
    return (prefill + output * step / batch) / 1000


def _step(profile: Profile, tokens: Tokens, objectives: Objectives) -> tuple[int, float]:
    """b* and T(b*), milliseconds."""
    context = _context(tokens)
    within = LATENCY_SHARE * min(objectives.itl_ms or inf, (objectives.e2e_ms or inf) / (tokens.output or 1.0))
    batch = max(1, batch_limit(profile, context, within, KV_SHARE))
    return batch, step_ms(profile, batch, batch * context)


def speeds(pools: Sequence[Pool], tokens: Tokens | None, objectives: Objectives) -> tuple[float, ...]:
    """What a replica of each pool does in the time in which one of the first does 1; all 1 while nothing is known."""
    if tokens is None or len(pools) == 1:
        return (1.0,) * len(pools)
    times = [request_seconds(profile_of(pool), tokens, objectives) for pool in pools]
    return tuple(times[0] / each if each else 1.0 for each in times)


def work(
    objectives: Objectives,
    utilization: float,
    pools: Sequence[Pool],
    observation: Observation,
    traffic: Traffic,
    tokens: Tokens,
    seasonal: float,
) -> Work:
    """`traffic` and `tokens` are the observation's. `seasonal`: a rate that is expected, 0 for none."""
    profile = profile_of(pools[0])
    slope = traffic.trust * traffic.slope
    growth = min(max(0.0, slope * (_cold(pools) + LAG_SECONDS)), traffic.rate)
    stay = (tokens.output or 0.0) * _step(profile, tokens, objectives)[1] / 1000
    damped = min(1.0, BURST_SECONDS / stay) if stay else 1.0
    burst = BURST_SHARE * (traffic.trend + damped * (traffic.burst - traffic.trend))
    arrivals = max(traffic.rate + growth, burst, seasonal)
    seconds = request_seconds(profile, tokens, objectives)
    corr = _corr(pools, observation, tokens, traffic.rate)
    waiting = observation.waiting.total.value if observation.waiting else 0.0
    queued = waiting + observation.held
    each = seconds * corr / utilization
    need = (arrivals + queued / DRAIN_SECONDS) * each
    return Work(
        traffic.rate,
        traffic.trust,
        growth,
        burst,
        seasonal,
        arrivals,
        seconds,
        corr,
        queued,
        need,
        max(0.0, -slope) * each,
    )


def wish(
    config: Slo,
    objectives: Objectives,
    pools: Sequence[Pool],
    observation: Observation,
    size: float,
    seasonal: float,
    memory: Memory,
    now: int,
) -> Wish:
    """`size`: the capacity that serves and starts, in replicas of the first pool. Down only after the window, or twice the
    cold start if that is longer, to the largest need in it and some slack."""
    traffic, tokens = observation.traffic, observation.tokens
    if traffic is None or tokens is None:
        lacking = "arrivals" if traffic is None else "requests' lengths"
        return Wish(0, inf, memory, f"{lacking} unknown", ("missing",))
    found = work(objectives, config.utilization, pools, observation, traffic, tokens, seasonal)
    window = max(config.down_window_seconds, 2 * _cold(pools)) * SECOND
    words = (
        f"{found.arrivals:.3g} requests/s x {found.request_seconds:.3g} s x {found.corr:.2f}"
        f" / {config.utilization:g}: {found.need:.2f} wanted"
    )
    if tokens.output is None:
        return Wish(found.need, inf, memory, f"{words} at least, no answer has ended yet", ("missing",))
    memory = replace(memory.saw(now), peaks=memory.peaks.push(now, found.need, window))
    most = (
        memory.peaks.falling(now, found.fall, window // 2) + SLACK
        if observation.ready and memory.settled(now, window)
        else inf
    )
    limited: tuple[Limit, ...] = ()
    if found.need + SLACK <= size - 1 < most:
        limited = (*limited, "downWindow")
    if found.need > 0 and seasonal == found.arrivals > max(found.rate + found.growth, found.burst):
        limited = (*limited, "seasonal")
    return Wish(found.need, most, memory, words, limited)


def terms(
    config: Slo, objectives: Objectives, pools: Sequence[Pool], observation: Observation, seasonal: float
) -> dict[str, float]:
    """Nothing where arrivals or lengths are unknown."""
    if observation.traffic is None or observation.tokens is None:
        return {}
    found = work(objectives, config.utilization, pools, observation, observation.traffic, observation.tokens, seasonal)
    return {name.replace("_", " "): value for name, value in asdict(found).items()}


def profile_of(pool: Pool) -> Profile:
    if pool.profile is None:
        raise ValueError(f"strategy slo needs a profile of pool {pool.name}")
    return pool.profile


def _cold(pools: Sequence[Pool]) -> int:
    return max(pool.cold_start_seconds for pool in pools)


def _context(tokens: Tokens) -> int:
    """Mean tokens of a sequence in the midst of its answer."""
    return max(1, round(tokens.prompt + (tokens.output or 0.0) / 2))


def _corr(pools: Sequence[Pool], observation: Observation, tokens: Tokens, rate: float) -> float:
    """Between two tokens of a sequence lies a step, and the prefills that came in between; 1 while anything is unknown.

    The prefills' share is that of the arrivals on the mean replica, at most half: so a higher rate never lowers the need.
    """
    ready, running = observation.ready, observation.running
    if not ready or not observation.itl_ms or running is None or running.total.value <= 0:
        return 1.0
    batch = max(1, round(running.total.each(ready).value))
    context = batch * _context(tokens)
    counts = [(profile_of(pool), state.serving) for pool, state in zip(pools, observation.pools, strict=True)]
    step = fsum(step_ms(profile, batch, context) * count for profile, count in counts if count) / ready
    prefill = request_seconds(profile_of(pools[0]), replace(tokens, output=None), NONE)
    predicted = step / (1 - min(PREFILL_SHARE, rate / ready * prefill))
    return min(max(observation.itl_ms / predicted, LOWEST), HIGHEST)
