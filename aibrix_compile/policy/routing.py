"""Which replica gets a request: every strategy as a pure function of what a picker can see.

A picker sees what it sent and what has ended, at once; what engines say of themselves (running, waiting, KV use), late; never
how long an answer will be, nor when the first token came. An `Endpoint` holds just that, and is advanced by `sent`, `ended`
and `reported` alone, so that the gateway's picker and the simulator decide with the same code from the same knowledge.

`choose` gives an index and why; `terms` recomputes the arithmetic for whoever asks. Scores are costs: the lowest wins, equal
ones by the caller's random number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from aibrix_compile.policy.profile import Profile
from aibrix_compile.policy.rendezvous import digest, weight

STRATEGIES = (
    *("random", "least-request", "least-kv-cache", "prefix-cache", "cost", "lora-affinity", "session", "weighted"),
)
COVER, BALANCE, SLACK = 0.25, 1.25, 2
"""prefix-cache follows a prefix that covers at least a quarter of the prompt, to a replica with at most 1.25 x the mean in
flight + 2; without these bounds every request follows the first block that all share."""
STALL, SHARE = 0.1, 2.0
"""cost: each request in flight waits while a prompt is read, which counts a tenth; and so many steps of its own."""
KV_FULL = 0.9
"""Above this share of its KV cache an engine is near preempting."""
STALE_US = 5_000_000
"""Older reports of an engine count as missing."""
_FAR = 1e9  # ms; further than any real cost


@dataclass(frozen=True, slots=True)
class Config:
    """`weights`: strategy -> weight, for `weighted` alone. `fallback` is used where the strategy's inputs are missing."""

    strategy: str
    fallback: str = "least-request"
    weights: Mapping[str, float] = field(default_factory=dict)
    stale_us: int = STALE_US


class Ask(NamedTuple):
    """One request as a picker sees it: `tokens` of its prompt (estimated from its bytes)."""

    tokens: int
    adapter: str = ""
    session: str = ""


class Choice(NamedTuple):
    """`place` among the endpoints; `strategy` is the one that decided, `degraded` why it was not the configured one."""

    place: int
    score: float
    strategy: str
    degraded: str = ""
    name: str = ""
    hit: int = 0

    @property
    def reason(self) -> str:
        """One line for a log."""
        found = f"{self.name} by {self.strategy}: {self.score:.4g}"
        found += f", {self.hit} tokens cached" if self.hit else ""
        return f"{found} ({self.degraded})" if self.degraded else found


class Endpoint:
    """A replica as one picker knows it. Times are microseconds of one clock; `kv_tokens` is the KV cache's capacity, `slots`
    how many adapters its engine can have in one batch."""

    __slots__ = (
        *("adapters", "answer_tokens", "attention_ms", "behind", "clear_us", "context_ms", "digest", "fixed_ms"),
        *("in_flight", "kv_tokens", "kv_used", "name", "others", "profile", "prompt_tokens", "recent", "reported_us"),
        *("running", "sequence_ms", "slots", "token_ms", "waiting", "work_ms"),
    )

    def __init__(self, name: str, profile: Profile | None, kv_tokens: int = 0, slots: int = 1) -> None:
        self.name, self.profile, self.slots, self.digest = name, profile, slots, digest(name)
        self.kv_tokens = kv_tokens or (profile.kv_tokens if profile else 0)
        self.token_ms, self.attention_ms = (profile.token_ms, profile.attention_ms) if profile else (0.0, 0.0)
        self.context_ms, self.sequence_ms = (profile.context_ms, profile.sequence_ms) if profile else (0.0, 0.0)
        self.fixed_ms = profile.weights_ms + profile.step_ms + profile.sync_ms if profile else 0.0
        self.in_flight = self.prompt_tokens = 0
        """Own requests that have not ended, and their prompts' tokens together."""
        self.work_ms = 0.0
        """What it takes to read those prompts, without what is thought to be cached."""
        self.clear_us = 0
        """When the prompts sent so far are thought to be read."""
        self.reported_us = -1
        self.running = self.waiting = self.kv_used = 0
        self.behind = False
        """Requests waited at the last two reports; at one alone it may have been for a step."""
        self.others = 0
        """Requests of other pickers, by the engine's last report."""
        self.answer_tokens = 200.0
        """Mean answer, learnt from those that ended."""
        self.adapters: dict[str, int] = {}
        """Own requests in flight by adapter."""
        self.recent: dict[str, None] = {}
        """Adapters that were used last, at most `slots`: they are likely still on the GPU."""

    def sent(self, tokens: int, hit: int, now: int, adapter: str = "") -> None:
        """One more request, `hit` tokens of which are thought to be cached there."""
        self.in_flight += 1
        self.prompt_tokens += tokens
        if self.profile:
            new = tokens - hit
            took = new * (self.token_ms + self.attention_ms * (hit + new / 2))
            self.work_ms += took
            self.clear_us = (now if now > self.clear_us else self.clear_us) + int(took * 1000)
        if adapter:
            self.adapters[adapter] = self.adapters.get(adapter, 0) + 1
            self.recent.pop(adapter, None)
            self.recent[adapter] = None
            if len(self.recent) > self.slots:
                del self.recent[next(iter(self.recent))]

    def ended(self, tokens: int, answer: int | None = None, adapter: str = "") -> None:
        """One of them ended or failed; `answer`: its tokens, where usage was reported."""
        if self.prompt_tokens:
            self.work_ms *= 1 - tokens / self.prompt_tokens
        self.in_flight -= 1
        self.prompt_tokens -= tokens
        if answer is not None:
            self.answer_tokens += (answer - self.answer_tokens) / 64
        if adapter:
            left = self.adapters[adapter] - 1
            if left:
                self.adapters[adapter] = left
            else:
                del self.adapters[adapter]

    def reported(self, running: int, waiting: int, kv_used: int, now: int) -> None:
        """What the engine said of itself; `kv_used` in tokens."""
        self.behind = waiting > 0 and self.waiting > 0
        self.running, self.waiting, self.kv_used, self.reported_us = running, waiting, kv_used, now
        self.others = max(0, running + waiting - self.in_flight)

    @property
    def load(self) -> int:
        """Requests in flight, of all pickers."""
        return self.in_flight + self.others

    def queued_ms(self, now: int) -> float:
        """How long prompts that are there already are read before a new one is: what is left of the clock, at most all
        that is in flight. The clock runs ahead of an engine that is busy with answers too. Where requests keep waiting, by
        the engine's own reports, it is the share of that work that is not running."""
        work = self.work_ms
        if self.behind and self.in_flight and now - self.reported_us <= STALE_US:
            unread = self.in_flight + self.others - self.running
            return work * unread / self.in_flight if unread > 0 else 0.0
        left = (self.clear_us - now) / 1000
        return 0.0 if left <= 0 else left if left < work else work


Scores = list[float]
Strategy = Callable[[Ask, Sequence[Endpoint], Sequence[int], int], Scores]
"""(request, endpoints, tokens of its prompt cached on each, now in microseconds) -> a score for each; ms for `cost`."""


def least_request(ask: Ask, endpoints: Sequence[Endpoint], hits: Sequence[int], now: int) -> Scores:
    return [one.in_flight + one.others for one in endpoints]


def least_kv_cache(ask: Ask, endpoints: Sequence[Endpoint], hits: Sequence[int], now: int) -> Scores:
    """Used KV tokens, and those of the prompts that the last report can not have seen."""
    found = []
    for one in endpoints:
        queued = one.queued_ms(now) / one.token_ms if one.token_ms else 0.0
        found.append(one.kv_used + queued)
    return found


def prefix_cache(ask: Ask, endpoints: Sequence[Endpoint], hits: Sequence[int], now: int) -> Scores:
    """The longest prefix among the replicas that are not overloaded; without one that is worth it, least-kv-cache."""
    most = BALANCE * sum(one.load for one in endpoints) / len(endpoints) + SLACK
    least = COVER * ask.tokens
    found = [
        -float(hit) if hit >= least and hit and one.load <= most else _FAR
        for hit, one in zip(hits, endpoints, strict=True)
    ]
    return found if min(found) < _FAR else least_kv_cache(ask, endpoints, hits, now)


def cost(ask: Ask, endpoints: Sequence[Endpoint], hits: Sequence[int], now: int) -> Scores:
    """Predicted TTFT on each replica, and what the request costs the ones that are there already, ms:

        max(queued, full) + own (1 + STALL there) + SHARE step
        own  = new cf + ca new (hit + new/2)             prefill of what is not cached
        step = W + c0 + cs there + ck (context + tokens) a step with the request in the batch
        full = over / capacity * answer * step           how long until so many KV tokens are given back

    with `there` requests in flight, their prompts and half a mean answer each as `context`, and `over` the tokens above
    KV_FULL of the capacity; prompts are read while room comes free, so the longer of both waits counts. The constants are
    those that `tests/bench/routing.py` prints beside others."""
    found, tokens = [], ask.tokens
    for one, hit in zip(endpoints, hits, strict=True):
        new, there = tokens - hit, one.in_flight + one.others
        context = one.prompt_tokens + there * one.answer_tokens / 2
        step = one.fixed_ms + there * one.sequence_ms + one.context_ms * (context + tokens)
        score = new * (one.token_ms + one.attention_ms * (hit + new / 2)) * (1 + STALL * there) + SHARE * step
        wait, over = one.queued_ms(now), context + new - KV_FULL * one.kv_tokens
        if over > 0 and one.kv_tokens:
            full = over / one.kv_tokens * one.answer_tokens * step
            wait = full if full > wait else wait
        found.append(score + wait)
    return found


def lora_affinity(ask: Ask, endpoints: Sequence[Endpoint], hits: Sequence[int], now: int) -> Scores:
    """Where the adapter is in use, where it was lately, where there is room for it, where it waits for a place, where all
    places are taken; among equals by cost."""
    found = cost(ask, endpoints, hits, now)
    if not ask.adapter:
        return found
    for index, one in enumerate(endpoints):
        full = len(one.adapters) >= one.slots
        if ask.adapter in one.adapters:
            found[index] += 0.4 * _FAR if len(one.adapters) > one.slots else 0.0
        elif full:
            found[index] += _FAR
        else:
            found[index] += 0.1 * _FAR if ask.adapter in one.recent else 0.2 * _FAR
    return found


def session(ask: Ask, endpoints: Sequence[Endpoint], hits: Sequence[int], now: int) -> Scores:
    """Rendezvous hash of the session's key, on replicas with at most 1.25 x the mean in flight (and one): a session moves
    only when its replica goes or is overloaded. Requests without a key go to the fewest in flight."""
    if not ask.session:
        return least_request(ask, endpoints, hits, now)
    most = BALANCE * sum(one.load for one in endpoints) / len(endpoints) + 1
    key = digest(ask.session)
    return [-weight(key, one.digest) / 2**64 + (_FAR if one.load > most else 0.0) for one in endpoints]


_SCORES: Mapping[str, Strategy] = {
    "least-request": least_request,
    "least-kv-cache": least_kv_cache,
    "prefix-cache": prefix_cache,
    "cost": cost,
    "lora-affinity": lora_affinity,
    "session": session,
}
_KV = frozenset(("least-kv-cache", "prefix-cache"))
_PROFILE = frozenset(("cost", "lora-affinity"))


def needs(strategy: str, weights: Mapping[str, float]) -> frozenset[str]:
    """What a strategy can not do without: `reports` of engines, `profile` of each replica."""
    names = frozenset(weights) if strategy == "weighted" else frozenset((strategy,))
    return frozenset((["reports"] if names & _KV else []) + (["profile"] if names & _PROFILE else []))


def choose(
    config: Config, ask: Ask, endpoints: Sequence[Endpoint], hits: Sequence[int], now: int, chance: float
) -> Choice:
    """The endpoint for one request. `endpoints`: those that are ready, not draining, serve the model and may serve the
    adapter; at least one. `hits`: tokens of the prompt thought to be cached on each. `now` in microseconds, `chance` in
    [0, 1) decides between equals, and everything for `random`."""
    strategy, degraded = config.strategy, ""
    if missing := _missing(config, endpoints, now):
        strategy, degraded = config.fallback, missing
    if strategy == "random":
        index = int(chance * len(endpoints))
        return Choice(index, 0.0, strategy, degraded, endpoints[index].name)
    scores = (
        _weighted(config, ask, endpoints, hits, now)
        if strategy == "weighted"
        else _SCORES[strategy](ask, endpoints, hits, now)
    )
    best = min(scores)
    if scores.count(best) > 1:
        equal = [index for index, score in enumerate(scores) if score == best]
        index = equal[int(chance * len(equal))]
    else:
        index = scores.index(best)
    return Choice(index, best, strategy, degraded, endpoints[index].name, hits[index])


def _missing(config: Config, endpoints: Sequence[Endpoint], now: int) -> str:
    strategy = config.strategy
    if strategy in _PROFILE or strategy == "weighted":
        wanted = needs(strategy, config.weights)
        if "profile" in wanted and any(one.profile is None for one in endpoints):
            return "no profile of an engine"
        if "reports" not in wanted:
            return ""
    elif strategy not in _KV:
        return ""
    oldest = now - config.stale_us
    late = [one.name for one in endpoints if one.reported_us < oldest or one.reported_us < 0]
    return f"no report of {late[0]} for {config.stale_us / 1e6:g} s" if late else ""


def _weighted(config: Config, ask: Ask, endpoints: Sequence[Endpoint], hits: Sequence[int], now: int) -> Scores:
    """The mean of several strategies' scores, each stretched to 0 (best) .. 1 (worst) first."""
    found = [0.0] * len(endpoints)
    for name in sorted(config.weights.keys() - {"random"}):  # chance has no score; it decides between equals anyway
        scores = _SCORES[name](ask, endpoints, hits, now)
        low, high = min(scores), max(scores)
        if high > low:
            for index, score in enumerate(scores):
                found[index] += config.weights[name] * (score - low) / (high - low)
    return found


def terms(
    config: Config, ask: Ask, endpoints: Sequence[Endpoint], hits: Sequence[int], now: int
) -> list[dict[str, float]]:
    """The arithmetic behind a choice, for each endpoint; costs several times the choice itself."""
    strategy = config.fallback if _missing(config, endpoints, now) else config.strategy
    scores = {
        name: one(ask, endpoints, hits, now) for name, one in _SCORES.items() if name in (strategy, *config.weights)
    }
    rows = []
    for index, (one, hit) in enumerate(zip(endpoints, hits, strict=True)):
        new = ask.tokens - hit
        row: dict[str, float] = {
            "in_flight": one.in_flight,
            "others": one.others,
            "hit_tokens": hit,
            "kv_used": one.kv_used,
        }
        if one.profile is not None:
            row["queued_ms"] = one.queued_ms(now)
            row["prefill_ms"] = new * one.token_ms + one.attention_ms * new * (hit + new / 2)
        rows.append(row | {f"score {name}": found[index] for name, found in scores.items()})
    return rows
