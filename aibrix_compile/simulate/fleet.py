"""Replicas that come and go: what is simulated, and who can be chosen now.

A replica is paid for from the decision that it starts to the end of its last request. When there are too many, the ones that
do not serve yet go first, then the youngest, as Kubernetes chooses; a leaving one gets nothing new and finishes what it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from aibrix_compile.policy import placement, routing
from aibrix_compile.policy.profile import Profile
from aibrix_compile.policy.routing import Endpoint
from aibrix_compile.simulate.engine import Engine, Limits


@dataclass(frozen=True, slots=True)
class Pool:
    """Identical replicas; `low` to `high` of them where a scaler chooses. `start_us`: from the decision to ready."""

    name: str
    profile: Profile
    limits: Limits
    max_model_len: int
    replicas: int
    low: int = 0
    high: int = 0
    start_us: int = 120_000_000
    gpus: int = 1
    cost_per_hour: float | None = None
    spot: bool = False
    known: Profile | None = None
    """The engine's times as pickers think they are; None: as they are."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A service as it is simulated. `gateway_us` is what routing and the network add to every answer."""

    pools: tuple[Pool, ...]
    routing: routing.Config
    block_tokens: int = 0
    """Unit of prefix reuse: that of the trace."""
    gateway_us: int = 2_000
    report_us: int = 1_000_000
    """How often engines report; what a picker knows of them is so old at most."""
    hold_us: int = 0
    """How long the gateway keeps a request that no replica can take; 0: it answers 503 at once."""
    warm_us: int = 0
    """Requests that arrive before are served, and count in no figure."""
    seed: int = 0
    adapters: tuple[placement.Adapter, ...] | None = None
    """What is wanted of them; None: nobody places any, and each is wherever it is asked for."""
    when_missing: str = "hold"
    """What becomes of a request whose adapter no replica has."""
    pickers: int = 1
    """Requests come to them in turn, and each decides by what it knows itself."""
    exchange_us: int = 20_000
    """Until a picker knows what another one sent and what ended there; below 0: never."""
    estimate_error: float = 0.2
    """A picker sees bytes, not tokens: the standard deviation of ln(estimated tokens / tokens). 0.2 is what lies between
    English prose (4.6 bytes a token) and code (3.2)."""


class Scaling(NamedTuple):
    """A change of a pool's number, and why."""

    at: int
    pool: int
    before: int
    after: int
    reason: str


class Replica:
    """One engine, and what each picker knows of it. `until_us` -1: it is still there."""

    __slots__ = (
        *("draining", "endpoint", "endpoints", "engine", "from_us", "number", "pool", "ready_us", "sent", "until_us"),
    )

    def __init__(self, number: int, index: int, setup: Setup, now: int, start_us: int) -> None:
        self.number, self.pool, pool = number, index, setup.pools[index]
        self.engine = Engine(pool.profile, pool.limits, setup.block_tokens)
        name, known, slots = f"{pool.name}-{number}", pool.known or pool.profile, pool.limits.max_loras
        self.endpoints = [Endpoint(name, known, slots=slots) for _ in range(setup.pickers)]
        self.endpoint = self.endpoints[0]
        self.from_us, self.ready_us, self.until_us = now, now + start_us, -1
        self.draining = False
        self.sent = 0


class Fleet:
    """All replicas there ever were, in order of their start; `ready` are those that can be chosen."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.replicas: list[Replica] = []
        self.ready: list[Replica] = []
        self.endpoints: list[list[Endpoint]] = []
        """Those of `ready`, as each picker knows them."""
        self.numbers: list[int] = []
        self.there: list[Replica] = []
        """Those that are not gone: ready, starting or draining."""
        for index, pool in enumerate(setup.pools):
            for _ in range(pool.replicas):
                self._start(index, 0, 0)
        self.refresh(0)

    def refresh(self, now: int) -> None:
        """After a start or an end."""
        self.there = [one for one in self.there if one.until_us < 0]
        self.ready = [one for one in self.there if one.ready_us <= now and not one.draining]
        self.endpoints = [[one.endpoints[picker] for one in self.ready] for picker in range(self._setup.pickers)]
        self.numbers = [one.number for one in self.ready]

    def wanted(self, pool: int) -> int:
        """Replicas that are not leaving."""
        return sum(one.pool == pool and not one.draining for one in self.there)

    def resize(self, pool: int, replicas: int, now: int) -> list[Replica]:
        """Start or let go until there are so many; those that were started."""
        have = [one for one in self.there if one.pool == pool and not one.draining]
        started = [self._start(pool, now, self._setup.pools[pool].start_us) for _ in range(replicas - len(have))]
        have.sort(key=lambda one: (one.ready_us <= now, -one.ready_us, -one.number))
        for one in have[: max(0, len(have) - replicas)]:
            one.draining = True
            if one.engine.until is None:
                one.until_us = now
        self.refresh(now)
        return started

    def _start(self, pool: int, now: int, start_us: int) -> Replica:
        one = Replica(len(self.replicas), pool, self._setup, now, start_us)
        self.replicas.append(one)
        self.there.append(one)
        return one
