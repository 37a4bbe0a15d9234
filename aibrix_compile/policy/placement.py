"""Which LoRA adapter is loaded on which replica.

Why it exists: the adapters controller and the simulator must place adapters alike, so the decision is one pure function of
what is wanted and what is loaded now. A replica has host-memory slots, one for each adapter that it holds, and fewer GPU
slots, one for each adapter that a batch can mix; an engine refuses neither, it evicts and serialises (and one that must read
an evicted adapter back from files that are gone exits). So the first limit is kept here, and adapters that were asked for in
the last minute share GPUs only where there is no other room.

Each copy of an adapter is a claim: the first `minimum` copies are due whatever happens, those up to the demand's number come
next, then those that only the last 15 minutes justify, then the last copy of an adapter that nobody asks for. Within a kind
the priority counts, then first copies before second ones. Claims without a copy are served from the strongest down, each by
the first of these that there is: an empty slot; the slot of an idle adapter; the slot of the weakest claim below it;
copies that move along a chain until one of these is found. The claims that can be granted together form a matroid (they are
the flows from adapters through replicas), so this greedy order with chains grants the most of the strongest claims that any
placement could, given the copies that may not move. A claim evicts only weaker ones, so deciding again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Literal

from aibrix_compile.policy.quantities import whole
from aibrix_compile.policy.rendezvous import Buckets, digest, weight

Place = Literal["gpu", "host", "unknown"]
RATE = 2.0
"""Requests/s of one adapter that one replica should carry, unless somebody knows better: the controller's and the simulator's."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """What is wanted of one adapter."""

    name: str
    minimum: int = 0
    """Replicas that hold it at least."""
    everywhere: bool = False
    """All ready replicas hold it; `minimum` has no meaning then."""
    priority: int = 0
    """Placed first when room is short; higher is first."""
    rank: int = 0
    """0 where it is unknown: it is taken to fit."""
    size: int = 0
    """Bytes of its files. Between equal victims the smaller one goes: it is sooner back."""
    rate_60s: float = 0.0
    """Requests/s of the last 60 s, those that wait for it or were refused included."""
    rate_15m: float = 0.0
    """Requests/s of the last 15 minutes."""
    pinned: bool = False
    """No copy of it is ever unloaded."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica and what was seen of it."""

    name: str
    gpu_slots: int
    host_slots: int
    """Adapters that it holds in all: what is on the GPU has its place in host memory too."""
    max_rank: int
    loaded: Mapping[str, Place]
    """What the engine lists now, the base model left out."""
    in_use: Set[str] = frozenset()
    """Adapters with requests in flight here."""
    in_flight: int = 0
    """Requests of all kinds."""
    ready: bool = True
    """False while it drains, too: it keeps what it has, gets nothing and counts for nothing."""


@dataclass(frozen=True, slots=True)
class Config:
    """ValueError: a rate that is not above 0, a hysteresis that is not in [0, 1)."""

    rate: float
    """Requests/s of one adapter that one replica should carry."""
    hysteresis: float = 0.2
    """A copy goes only when those that stay would carry the demand at this share below `rate`."""

    def __post_init__(self) -> None:
        if not (self.rate > 0 and 0 <= self.hysteresis < 1):
            raise ValueError(f"rate {self.rate} must be above 0 and hysteresis {self.hysteresis} in [0, 1)")


@dataclass(frozen=True, slots=True)
class Step:
    verb: Literal["load", "unload"]
    adapter: str
    replica: str
    reason: str


class Why(StrEnum):
    ROOM = "no room"
    RANK = "its rank is above what the other replicas take"
    REPLICAS = "too few ready replicas"


@dataclass(frozen=True, slots=True)
class Short:
    """An adapter is `missing` copies below its minimum for one cause; it appears once for each cause."""

    adapter: str
    missing: int
    why: Why


@dataclass(frozen=True, slots=True)
class Decision:
    """`steps` in the order in which to take them; a step may begin before earlier ones have ended if those concern neither
    its adapter nor its replica. `placement` is what ready replicas hold when all are taken: adapter -> replicas, both
    sorted. `short` is sorted by adapter."""

    steps: tuple[Step, ...]
    placement: Mapping[str, tuple[str, ...]]
    short: tuple[Short, ...]


class Level(IntEnum):
    """Why there is, or should be, the nth copy of an adapter."""

    SURPLUS = 0
    IDLE = 1
    RECENT = 2
    DEMAND = 3
    MINIMUM = 4


@dataclass(frozen=True, slots=True)
class Terms:
    """The arithmetic of one adapter, in copies on ready replicas."""

    minimum: int
    """For `everywhere` the number of ready replicas, and 1 if there are none."""
    able: int
    """Ready replicas whose rank suffices: there can be no more copies."""
    up: int
    """ceil(60 s rate / rate)."""
    down: int
    """ceil(the larger rate / (rate (1 - hysteresis)))."""
    held: int

    @property
    def needed(self) -> int:
        """Copies to load up to."""
        return max(min(self.minimum, self.able), self.up)

    @property
    def kept(self) -> int:
        """Copies to unload down to; the last one stays as long as nobody needs its slot."""
        return max(self.minimum, self.down, 1)

    def level(self, copy: int) -> Level:
        """Of the nth copy, counted from 1."""
        if copy <= self.minimum:
            return Level.MINIMUM
        if copy <= self.up:
            return Level.DEMAND
        if copy <= self.down:
            return Level.RECENT
        return Level.IDLE if copy == 1 else Level.SURPLUS


def terms(config: Config, adapter: Adapter, replicas: Iterable[Replica]) -> Terms:
    """What `decide` reckons with for one adapter before it moves anything."""
    ready = [replica for replica in replicas if replica.ready]
    able = [replica for replica in ready if adapter.rank <= replica.max_rank]
    return _terms(config, adapter, len(ready), len(able), sum(adapter.name in replica.loaded for replica in able))


def _terms(config: Config, adapter: Adapter, ready: int, able: int, held: int) -> Terms:
    minimum = max(1, ready) if adapter.everywhere else adapter.minimum
    up = _copies(adapter.rate_60s, config.rate, able)
    down = _copies(max(adapter.rate_60s, adapter.rate_15m), config.rate * (1 - config.hysteresis), able)
    return Terms(minimum, able, up, down, held)


def _copies(rate: float, each: float, most: int) -> int:
    return most if rate >= most * each else whole(rate / each)


def decide(config: Config, adapters: Iterable[Adapter], replicas: Iterable[Replica]) -> Decision:
    """As few loads and unloads as it finds after which minimums and demand are met, as far as there is room. An adapter
    that is loaded and not in `adapters` is unloaded once it is not in use. ValueError: two adapters or two replicas have
    one name, or a rate is not a number."""
    wanted = sorted(adapters, key=lambda adapter: adapter.name)
    seen = sorted(replicas, key=lambda replica: replica.name)
    for what, names in (("adapters", [x.name for x in wanted]), ("replicas", [r.name for r in seen])):
        for name, other in pairwise(names):
            if name == other:
                raise ValueError(f'two {what} are named "{name}"')
    fleet = _Fleet(config, wanted, [replica for replica in seen if replica.ready])
    fleet.clear()
    fleet.fill()
    return Decision(tuple(fleet.steps()), fleet.placement(), tuple(fleet.short()))


_Claim = tuple[int, int, int]
"""Level, priority and -n of an adapter's nth copy: the stronger of two is the larger."""


class _Fleet:
    """The copies on ready replicas while they change. Adapters x, y and replicas r, q are numbers, in the order of names."""

    def __init__(self, config: Config, adapters: list[Adapter], replicas: list[Replica]) -> None:
        self.adapters, self.replicas = adapters, replicas
        self.nodes = [digest(replica.name) for replica in replicas]
        self.able = {
            rank: {r for r, replica in enumerate(replicas) if rank <= replica.max_rank}
            for rank in {adapter.rank for adapter in adapters}
        }
        self.holders: list[set[int]] = [set() for _ in adapters]
        self.copies: list[set[int]] = [set() for _ in replicas]
        self.fixed: list[set[int]] = [set() for _ in replicas]
        self.idle: list[set[int]] = [set() for _ in replicas]
        self.used = [0] * len(replicas)
        self.hot = [0] * len(replicas)
        self.loads: dict[tuple[str, int], str] = {}
        self.unloads: dict[tuple[str, int], str] = {}
        self.claims: list[tuple[int, int, int, float, int]] = []
        self.victims: dict[int, list[tuple[_Claim, int, int]]] = {}
        self.dead: set[int] = set()
        self.by_hot, self.by_fill = Buckets(self.nodes), Buckets(self.nodes)
        self._observe({adapter.name: x for x, adapter in enumerate(adapters)})
        self.terms = [
            _terms(config, adapter, len(replicas), len(self.able[adapter.rank]), len(self.holders[x]))
            for x, adapter in enumerate(adapters)
        ]

    def _observe(self, number: Mapping[str, int]) -> None:
        for r, replica in enumerate(self.replicas):
            for name in sorted(replica.loaded):
                x = number.get(name)
                fixed = name in replica.in_use or (x is not None and self.adapters[x].pinned)
                if x is not None and r in self.able[self.adapters[x].rank]:
                    self._place(x, r)
                    if fixed:
                        self.fixed[r].add(x)
                elif fixed:
                    self.used[r] += 1
                elif x is None:
                    self.unloads[name, r] = "in no set"
                else:
                    self.unloads[name, r] = f"rank {self.adapters[x].rank} is above the replica's {replica.max_rank}"

    def clear(self) -> None:
        """Unload the copies that nothing justifies, and those that a replica has no slot for."""
        for x, terms in enumerate(self.terms):
            if terms.held > terms.kept:
                spare = (r for r in self.holders[x] if x not in self.fixed[r])
                for r in sorted(spare, key=lambda r: self._value(x, r))[: terms.held - terms.kept]:
                    self._drop(x, r, f"surplus: {terms.kept} of {terms.held} copies suffice")
        for r, replica in enumerate(self.replicas):
            while self.used[r] > replica.host_slots and (loose := self.copies[r] - self.fixed[r]):
                self._drop(min(loose, key=self._cost), r, f"{self.used[r]} adapters in {replica.host_slots} slots")

    def fill(self) -> None:
        """Serve the claims that have no copy, the strongest first."""
        for x, terms in enumerate(self.terms):
            if len(self.holders[x]) == 1 and terms.level(1) is Level.IDLE:
                (r,) = self.holders[x]
                self.idle[r] |= {x} - self.fixed[r]
            for n in range(len(self.holders[x]) + 1, terms.needed + 1):
                self._claim(x, n)
        for r in range(len(self.replicas)):
            self._sort(r)
        while self.claims:
            *_, n, _, x = heappop(self.claims)
            self._serve(x, self._worth(x, n))

    def _serve(self, x: int, claim: _Claim) -> None:
        adapter, able, held = self.adapters[x], self.able[self.adapters[x].rank], self.holders[x]
        if not able - held - self.dead:
            return
        order = self.by_hot if adapter.rate_60s else self.by_fill
        r = order.first(digest(adapter.name), able, held)
        if r is None:
            r = self._weakest(x, claim)
        if r is not None:
            self._make_room(r, x)
        else:
            r = self._chain(x, claim)
        if r is not None:
            self._add(x, r, self._reason(x, claim))

    def _reason(self, x: int, claim: _Claim) -> str:
        adapter, terms = self.adapters[x], self.terms[x]
        if claim[0] == Level.DEMAND:
            return f"{adapter.rate_60s:g} requests/s need {terms.up} copies"
        return "everywhere" if adapter.everywhere else f"minimum {terms.minimum}"

    def _weakest(self, x: int, claim: _Claim) -> int | None:
        """The replica, of those that may take `x`, with the weakest copy below `claim`. None of them holds an idle one."""
        rank = self.adapters[x].rank
        if rank not in self.victims:
            costs = (self._cost(y) for y, held in enumerate(self.holders) if held & self.able[rank])
            self.victims[rank] = [cost for cost in costs if cost[0][0] > Level.IDLE]
            heapify(self.victims[rank])
        victims, passed, found = self.victims[rank], [], None
        while found is None and victims and victims[0][0] < claim:
            cost = heappop(victims)
            y = cost[2]
            loose = [r for r in self.holders[y] & self.able[rank] if y not in self.fixed[r]]
            if loose and cost == self._cost(y):  # else a copy went, and there is a newer entry
                passed.append(cost)
                if open_to := [r for r in loose if r not in self.holders[x]]:
                    found = min(open_to, key=lambda r: self._value(y, r))
        for cost in passed:
            heappush(victims, cost)
        return found

    def _chain(self, x: int, claim: _Claim) -> int | None:
        """Moves copies, each to the next replica of the shortest chain that ends where there is room; the chain's first
        replica, which now has room for `x`.

        Replicas from which no chain leads to room are dead for good: all they hold is as strong as this claim, and later
        ones are no stronger. So all the searches that fail visit each replica once."""
        start = self.able[self.adapters[x].rank] - self.holders[x] - self.dead
        came: dict[int, tuple[int, int]] = {}
        queue, unseen = sorted(start), set(range(len(self.replicas))) - start - self.dead
        for r in queue:
            for y in sorted(self.copies[r] - self.fixed[r], key=lambda y: (self.adapters[y].size, y)):
                for q in sorted((unseen & self.able[self.adapters[y].rank]) - self.holders[y]):
                    came[q] = r, y
                    if self._has_room(q, claim):
                        self._make_room(q, x)
                        return self._move(q, came, f"moves: room for {self.adapters[x].name}")
                    unseen.remove(q)
                    queue.append(q)
        self.dead.update(queue)
        return None

    def _move(self, end: int, came: Mapping[int, tuple[int, int]], reason: str) -> int:
        while end in came:
            r, y = came[end]
            self._drop(y, r, reason)
            self._add(y, end, reason)
            end = r
        return end

    def _has_room(self, r: int, claim: _Claim) -> bool:
        if self.used[r] < self.replicas[r].host_slots:
            return True
        return any(self._cost(y)[0] < claim for y in self.copies[r] - self.fixed[r])

    def _make_room(self, r: int, x: int) -> None:
        if self.used[r] < self.replicas[r].host_slots:
            return
        y = min(self.copies[r] - self.fixed[r], key=self._cost)
        n = len(self.holders[y])
        self._drop(y, r, f"room for {self.adapters[x].name}")
        if n <= self.terms[y].needed:
            self._claim(y, n)
        for victims in self.victims.values():
            heappush(victims, self._cost(y))

    def _claim(self, x: int, n: int) -> None:
        level, priority, _ = self._worth(x, n)
        heappush(self.claims, (-level, -priority, n, -self.adapters[x].rate_60s, x))

    def _worth(self, x: int, n: int) -> _Claim:
        return self.terms[x].level(n), self.adapters[x].priority, -n

    def _cost(self, x: int) -> tuple[_Claim, int, int]:
        """Of one copy less, whichever it is: an adapter always loses its weakest claim."""
        return self._worth(x, len(self.holders[x])), self.adapters[x].size, x

    def _value(self, x: int, r: int) -> tuple[int, int, int, int]:
        """Of one of an adapter's copies among the others: the first to go is in host memory, on a full and busy replica."""
        replica, name = self.replicas[r], self.adapters[x].name
        place = _PLACES.index(replica.loaded.get(name, "unknown"))
        return place, -self.used[r], -_busy(replica), weight(digest(name), self.nodes[r])

    def _add(self, x: int, r: int, reason: str) -> None:
        copy = self.adapters[x].name, r
        if self.unloads.pop(copy, None) is None:
            self.loads[copy] = reason
        self._place(x, r)
        self._sort(r)

    def _place(self, x: int, r: int) -> None:
        self.holders[x].add(r)
        self.copies[r].add(x)
        self.used[r] += 1
        self.hot[r] += self.adapters[x].rate_60s > 0

    def _drop(self, x: int, r: int, reason: str) -> None:
        copy = self.adapters[x].name, r
        if self.loads.pop(copy, None) is None:
            self.unloads[copy] = reason
        self.holders[x].remove(r)
        self.copies[r].remove(x)
        self.idle[r].discard(x)
        self.used[r] -= 1
        self.hot[r] -= self.adapters[x].rate_60s > 0
        self._sort(r)

    def _sort(self, r: int) -> None:
        """By eighths, so that what is in flight counts where replicas are about equally full."""
        replica, used, hot = self.replicas[r], self.used[r], self.hot[r]
        full = used >= replica.host_slots
        if full and not self.idle[r]:
            self.by_hot.put(r, None)
            self.by_fill.put(r, None)
            return
        crowded = hot >= replica.gpu_slots
        eighths = 8 * hot // max(1, replica.gpu_slots)
        self.by_hot.put(r, (crowded, full, eighths, _busy(replica), used))
        self.by_fill.put(r, (8 * used // replica.host_slots, _busy(replica), used))

    def steps(self) -> Iterator[Step]:
        """Loads in the order of their claims, each after the unload that it needs, and that after the loads of the same
        adapter elsewhere: an adapter that moves is not missing meanwhile, unless two would exchange their places. Unloads
        that no load needs come last."""
        room = [replica.host_slots - len(replica.loaded) for replica in self.replicas]
        coming: dict[str, list[int]] = {}
        leaving: list[list[str]] = [[] for _ in self.replicas]
        for name, r in self.loads:
            coming.setdefault(name, []).append(r)
        for name, r in self.unloads:
            leaving[r].append(name)

        def load(name: str, r: int) -> Step:
            coming[name].remove(r)
            room[r] -= 1
            return Step("load", name, self.replicas[r].name, self.loads[name, r])

        def unload(name: str, r: int) -> Step:
            leaving[r].remove(name)
            room[r] += 1
            return Step("unload", name, self.replicas[r].name, self.unloads[name, r])

        for first in self.loads:
            waiting = [first]
            while waiting:
                name, r = waiting[-1]
                if r not in coming[name]:
                    waiting.pop()
                elif room[r] > 0:
                    yield load(name, r)
                else:
                    victim = leaving[r][0]
                    before = ((victim, q) for q in coming.get(victim, ()) if (victim, q) not in waiting)
                    if (move := next(before, None)) is not None:
                        waiting.append(move)
                    else:
                        yield unload(victim, r)
        for r, names in enumerate(leaving):
            for name in tuple(names):
                yield unload(name, r)

    def placement(self) -> dict[str, tuple[str, ...]]:
        return {
            adapter.name: tuple(self.replicas[r].name for r in sorted(held))
            for adapter, held in zip(self.adapters, self.holders, strict=True)
            if held
        }

    def short(self) -> Iterator[Short]:
        ready = len(self.replicas)
        for adapter, terms, held in zip(self.adapters, self.terms, self.holders, strict=True):
            if len(held) < terms.minimum:
                reach, most = min(terms.minimum, ready), min(terms.minimum, terms.able)
                causes = (terms.minimum - reach, Why.REPLICAS), (reach - most, Why.RANK), (most - len(held), Why.ROOM)
                yield from (Short(adapter.name, missing, why) for missing, why in causes if missing)


_PLACES = ("host", "unknown", "gpu")


def _busy(replica: Replica) -> int:
    """Powers of two: two controllers never count quite the same requests, and shall still agree."""
    return replica.in_flight.bit_length()
