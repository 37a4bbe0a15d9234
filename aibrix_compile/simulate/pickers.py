"""The pickers of a run: each decides by what it can know, and hears of the others' requests a little later.

Why it exists: a simulated picker that counts tokens exactly, or that sees every request of the service, decides better
than a real one. Here a prompt's tokens are an estimate from its bytes, a prefix counts in whole blocks (the last one of
a prompt, which is rarely full, matches nothing), the index of prefixes is bounded by the KV cache that the engine has,
and what another picker did is known `exchange_us` later or only from the engine's next report.
"""

from __future__ import annotations

from collections import deque
from math import exp
from random import Random
from typing import NamedTuple

from aibrix_compile.policy import routing
from aibrix_compile.policy.prefixes import PrefixIndex
from aibrix_compile.policy.routing import Ask, Choice
from aibrix_compile.simulate.engine import Sequence
from aibrix_compile.simulate.fleet import Fleet, Replica, Setup

_PREFIXES = frozenset(("cost", "prefix-cache", "lora-affinity", "weighted"))
_FACTORS = 1021  # a prime, so that no picker and no turn of a conversation meets the same few again and again


class _Note(NamedTuple):
    """What one picker tells the others; `blocks` None: the request ended."""

    due: int
    picker: int
    replica: Replica
    tokens: int
    adapter: str
    blocks: tuple[int, ...] | None


class Pickers:
    """`choose` for each request, `ended` for each that ends; replicas come by `admit` and go by `forget`."""

    def __init__(self, setup: Setup, fleet: Fleet) -> None:
        self._setup, self._fleet = setup, fleet
        self._count, self._unit = setup.pickers, setup.block_tokens
        self._follows = bool(setup.block_tokens) and setup.routing.strategy in _PREFIXES
        self._indexes = [PrefixIndex() for _ in range(setup.pickers)]
        self._tells = setup.pickers > 1 and setup.exchange_us >= 0
        self._notes: deque[_Note] = deque()
        error, random = setup.estimate_error, Random(setup.seed + 1)
        # the sum of twelve uniform numbers is normal enough, and the same on every Python
        normal = (sum(random.random() for _ in range(12)) - 6 for _ in range(_FACTORS))
        self._factors = [exp(error * one - error * error / 2) for one in normal] if error else [1.0]
        for one in fleet.replicas:
            self.admit(one)

    def admit(self, replica: Replica) -> None:
        """A new replica, whose cache is empty."""
        if self._follows:
            for index in self._indexes:
                index.admit(replica.number, replica.engine.capacity // self._unit)

    def forget(self, replica: Replica) -> None:
        """The replica is gone."""
        if self._follows:
            for index in self._indexes:
                index.forget(replica.number)

    def choose(
        self, sequence: Sequence, now: int, chance: float, places: list[int] | None = None
    ) -> tuple[Replica, Choice]:
        """Where the request goes: at one of these places of `Fleet.ready`, of which there is at least one, or anywhere. What the
        picker then knows is noted."""
        fleet, number = self._fleet, sequence.index % self._count
        if self._notes:
            self.hear(now)
        endpoints, tokens = fleet.endpoints[number], self.estimate(sequence)
        blocks = sequence.blocks[: sequence.input // self._unit] if self._follows else ()
        hits = self.hits(sequence, blocks, number) if blocks else [0] * len(endpoints)
        ready = fleet.ready
        if places is not None:
            ready, endpoints = [ready[place] for place in places], [endpoints[place] for place in places]
            hits = [hits[place] for place in places]
        ask = Ask(tokens, sequence.adapter, sequence.session)
        choice = routing.choose(self._setup.routing, ask, endpoints, hits, now, chance)
        replica = ready[choice.place]
        if blocks:
            self._indexes[number].remember(replica.number, blocks)
        endpoints[choice.place].sent(tokens, choice.hit, now, sequence.adapter)
        if self._tells:
            due = now + self._setup.exchange_us
            self._notes.append(_Note(due, number, replica, tokens, sequence.adapter, blocks))
        return replica, choice

    def ended(self, sequence: Sequence, replica: Replica, now: int) -> None:
        """Its picker sees that at once; the answer's tokens are told by the usage that the gateway logs."""
        number = sequence.index % self._count
        tokens = self.estimate(sequence)
        replica.endpoints[number].ended(tokens, sequence.output, sequence.adapter)
        if self._tells:
            due = now + self._setup.exchange_us
            self._notes.append(_Note(due, number, replica, tokens, sequence.adapter, None))

    def hear(self, now: int) -> None:
        """What the others have told until now."""
        notes = self._notes
        while notes and notes[0].due <= now:
            due, sender, replica, tokens, adapter, blocks = notes.popleft()
            for number, endpoint in enumerate(replica.endpoints):
                if number == sender:
                    continue
                if blocks is None:
                    endpoint.ended(tokens, None, adapter)
                    continue
                hit = 0
                if self._follows and blocks and replica.until_us < 0:
                    index = self._indexes[number]
                    hit = min(index.match(blocks, [replica.number])[0] * self._unit, tokens - 1)
                    index.remember(replica.number, blocks)
                endpoint.sent(tokens, hit, due, adapter)

    def estimate(self, sequence: Sequence) -> int:
        """Tokens of the prompt as a picker reckons them; the same each time it is asked."""
        return max(1, round(sequence.input * self._factors[sequence.index % len(self._factors)]))

    def hits(self, sequence: Sequence, blocks: tuple[int, ...], picker: int) -> list[int]:
        """Tokens of these whole blocks that each ready replica is thought to have, reckoned as the prompt is."""
        unit = self._unit * self._factors[sequence.index % len(self._factors)]
        last = self.estimate(sequence) - 1
        return [min(int(found * unit), last) for found in self._indexes[picker].match(blocks, self._fleet.numbers)]
