"""The event loop: a trace against a fleet, with the decisions that the cluster will make.

Why it exists: the picker's and the scaler's own code decides here, from what they could know - reports of engines that
are up to a second old, their own counts, no length of an answer before its end (`pickers.py` has the rest). Events are
(time, number): numbers from 0 on are replicas whose engine has something to finish, negative ones the clockwork (reports
and the scaler, starts). Equal times come in that order, and everything random comes from seeded generators, so a run is
a function of its arguments.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Protocol

from aibrix_compile.simulate.engine import Sequence
from aibrix_compile.simulate.fleet import Fleet, Replica, Scaling, Setup
from aibrix_compile.simulate.pickers import Pickers
from aibrix_compile.simulate.placing import Placing
from aibrix_compile.simulate.series import Series
from aibrix_compile.simulate.trace import Request

_TICK, _START = -2, -1
GAUGES = ("ready", "starting", "running", "waiting", "held", "kv", "prompt", "hit", "arrived", "failed", "adapters")


def _numbers() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Record:
    """What happened. The arrays have a row for each answered request, in order of its end, in microseconds."""

    series: Series
    arrived: array[int] = field(default_factory=_numbers)
    ttft: array[int] = field(default_factory=_numbers)
    e2e: array[int] = field(default_factory=_numbers)
    tpot: array[int] = field(default_factory=_numbers)
    """Mean time between the tokens of an answer, 0 for an answer of one."""
    refused: int = 0
    """Prompts that fill the whole context, or more: the engine answers 400."""
    unserved: int = 0
    """No replica, or none in time: the gateway answers 503."""
    truncated: int = 0
    """Answers that the context cut short."""
    degraded: int = 0
    """Choices that were not the configured strategy's."""
    input_tokens: int = 0
    output_tokens: int = 0
    first_us: int = 0
    kv_peak: float = 0.0
    decisions: list[Scaling] = field(default_factory=list)


class Scaler(Protocol):
    """What chooses numbers of replicas; called once a report interval, after all reports."""

    def arrived(self, request: Request) -> None: ...

    def answered(self, sequence: Sequence) -> None: ...

    def look(self, fleet: Fleet, held: int, now: int) -> list[tuple[int, int, str]]:
        """(pool, replicas, why) for each pool whose number shall change."""


class Simulation:
    """One run: `go` consumes the trace, then `record` and `fleet` say what happened. `watch` is told the time and the
    number of requests now and then."""

    def __init__(
        self, setup: Setup, scaler: Scaler | None = None, watch: Callable[[int, int], None] = lambda now, requests: None
    ) -> None:
        self.setup, self._scaler, self._watch = setup, scaler, watch
        self.fleet = Fleet(setup)
        self.now = 0
        names = [f"replicas {index}" for index in range(len(setup.pools))]
        self.record = Record(Series((*GAUGES, *names), setup.report_us))
        self._events: list[tuple[int, int]] = []
        self._random = Random(setup.seed).random
        self._held: deque[Sequence] = deque()
        self._longest = min(min(one.max_model_len, one.profile.kv_tokens) for one in setup.pools)
        self.pickers = Pickers(setup, self.fleet)
        self.ended: Callable[[Sequence], None] | None = None
        """Called with each sequence that counts, at its end."""
        self._placing = Placing(setup, self.fleet) if setup.adapters is not None else None
        self._warming = setup.warm_us > 0
        self.requests = 0
        """That count in some figure."""
        self._arrived = self._failed = self._seen_prompt = self._seen_hit = 0

    def go(self, requests: Iterable[Request]) -> None:
        """Until every request has ended."""
        events, replicas, longest = self._events, self.fleet.replicas, self._longest
        record, scaler, warm = self.record, self._scaler, self.setup.warm_us
        heappush(events, (0, _TICK))
        arrivals, index = iter(requests), 0
        following = next(arrivals, None)
        record.first_us = max(following.at, warm) if following else 0
        while True:
            if following is not None and following.at <= (events[0][0] if events else following.at):
                self.now = now = following.at
                self._arrived += 1
                self.requests += now >= warm
                if following.input >= longest:
                    record.refused += now >= warm
                    self._failed += 1
                else:
                    if following.input + following.output > longest:
                        following = following._replace(output=longest - following.input)
                        record.truncated += 1
                    if scaler is not None:
                        scaler.arrived(following)
                    if following.adapter and self._placing:
                        self._placing.asked(following.adapter, now)
                    self._offer(Sequence(index, following, now))
                index += 1
                following = next(arrivals, None)
                continue
            if not events:
                break
            now, number = heappop(events)
            if number >= 0:
                replica = replicas[number]
                engine = replica.engine
                if engine.until != now:
                    continue  # an arrival has cut what was planned
                self.now = now
                until = engine.advance(now)
                if until is not None:
                    heappush(events, (until, number))
                if engine.finished:
                    self._finish(replica)
                if until is None and replica.draining:
                    self._gone(replica)
            elif number == _TICK:
                self._tick(now)
                self._watch(now, index)
                if following is not None or self._held or any(one.engine.until is not None for one in self.fleet.there):
                    heappush(events, (now + self.setup.report_us, _TICK))
            else:
                self.now = now
                self.fleet.refresh(now)
                if self._held:
                    held, self._held = self._held, deque()
                    for one in held:
                        self._offer(one)

    # --- requests

    def _offer(self, sequence: Sequence) -> None:
        """To a replica that can take it; else it waits, or is refused at once."""
        adapter, places = sequence.adapter, None
        if adapter and self._placing and self.fleet.ready:
            places = self._placing.places(adapter, self.now)
            if not places and self.setup.when_missing == "base":
                sequence.adapter, places = "", None
        if self.fleet.ready and (places is None or places):
            self._send(sequence, places)
            return
        if self.setup.hold_us and not (places == [] and self.setup.when_missing == "reject"):
            self._held.append(sequence)
        else:
            self.record.unserved += sequence.arrived >= self.setup.warm_us
            self._failed += 1

    def _send(self, sequence: Sequence, places: list[int] | None) -> None:
        now = self.now
        replica, choice = self.pickers.choose(sequence, now, self._random(), places)
        if choice.degraded:
            self.record.degraded += 1
        replica.sent += 1
        sequence.cached_guess = choice.hit
        engine = replica.engine
        before = engine.until
        until = engine.add(sequence, now)
        if until is not None and until != before:
            heappush(self._events, (until, replica.number))

    def _finish(self, replica: Replica) -> None:
        record, extra, pickers, scaler = self.record, self.setup.gateway_us, self.pickers, self._scaler
        finished, warm = replica.engine.finished, self.setup.warm_us
        for one in finished:
            first, end, output = one.first, one.finished, one.output
            pickers.ended(one, replica, end)
            if scaler is not None:
                scaler.answered(one)
            if one.arrived < warm:
                continue
            record.arrived.append(one.arrived)
            record.ttft.append(first - one.arrived + extra)
            record.e2e.append(end - one.arrived + extra)
            record.tpot.append((end - first) // (output - 1) if output > 1 else 0)
            record.input_tokens += one.input
            record.output_tokens += output
            if self.ended is not None:
                self.ended(one)
        finished.clear()

    def _expire(self, now: int) -> None:
        """Held requests whose time is over get a 503."""
        limit = now - self.setup.hold_us
        while self._held and self._held[0].arrived <= limit:
            self.record.unserved += self._held.popleft().arrived >= self.setup.warm_us
            self._failed += 1

    # --- replicas

    def _gone(self, replica: Replica) -> None:
        replica.until_us = self.now
        self.pickers.forget(replica)
        self.fleet.refresh(self.now)

    def _tick(self, now: int) -> None:
        """Engines report, the scaler looks, a row is written."""
        self.now = max(self.now, now) if self._held else self.now
        if self._warming and now >= self.setup.warm_us:
            self._warming = False
            self._seen_prompt = self._seen_hit = self.record.degraded = self.record.truncated = 0
            self.record.kv_peak = 0.0
            for one in self.fleet.replicas:
                one.engine.forget()
                one.sent = 0
        fleet, pools = self.fleet, [0] * len(self.setup.pools)
        self.pickers.hear(now)
        running = waiting = prompt = hit = adapters = 0
        used = 0.0
        for one in fleet.there:
            engine = one.engine
            kv = engine.kv_tokens
            for endpoint in one.endpoints:
                endpoint.reported(len(engine.running), len(engine.waiting), kv, now)
            running += len(engine.running)
            waiting += len(engine.waiting)
            adapters += engine.adapters_active
            share = kv / engine.capacity
            used += share
            if share > self.record.kv_peak:
                self.record.kv_peak = share
            pools[one.pool] += 1
        for one in fleet.replicas:
            prompt += one.engine.prompt_tokens
            hit += one.engine.hit_tokens
        ready, there = len(fleet.ready), len(fleet.there)
        starting = sum(one.ready_us > now for one in fleet.there)
        row = (ready, starting, running, waiting, len(self._held), used / there if there else 0.0)
        more = (prompt - self._seen_prompt, hit - self._seen_hit, self._arrived, self._failed, adapters)
        self.record.series.add((*row, *more, *pools))
        self._seen_prompt, self._seen_hit, self._arrived, self._failed = prompt, hit, 0, 0
        if self._held:
            self._expire(now)
        if self._placing and self._placing.look(now):
            for after in {pool.limits.adapter_fetch_us for pool in self.setup.pools}:
                heappush(self._events, (now + after, _START))
        if self._scaler is None:
            return
        for pool, replicas, why in self._scaler.look(fleet, len(self._held), now):
            before = fleet.wanted(pool)
            for one in fleet.resize(pool, replicas, now):
                self.pickers.admit(one)
                heappush(self._events, (one.ready_us, _START))
            self.record.decisions.append(Scaling(now, pool, before, replicas, why))
