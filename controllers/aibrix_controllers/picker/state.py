"""What this picker knows: replicas, what it and its peers sent to them, budgets. Why it exists: observers write here, decisions
read here, and neither knows the other. One per process, one thread; every method is cheap and takes its `now`, microseconds of
a monotonic clock.

Who may be picked is worked out when something changes and not per request: `candidates` is a dictionary look-up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aibrix_compile.policy import budget, routing
from aibrix_compile.policy.prefixes import PrefixIndex
from aibrix_compile.policy.routing import Endpoint
from aibrix_controllers.picker.config import CUSTOM, Config, Pool, Service

BLOCK_BYTES = 1024
"""Of a prompt, in one block of the prefix index: about 256 tokens."""
BYTES_PER_TOKEN = 4.0
"""Until usage tells better."""
FULL = 0.95
"""Share of its KV cache above which an engine gets nothing while another has room: it would preempt what it has."""
SETTLE_US = 1_500_000
"""From when DNS names an address to when Envoy, which asks each 1 s +- 0.2 s, knows it too."""
NAMED_US = 35_000_000
"""After so long Envoy knows a replica for certain: names live for 30 s, and it looks each second."""
_BLOCKS = 4096  # of a replica whose KV cache is unknown: a million tokens
_ANSWER = 200.0  # tokens of an answer until one has ended
_PREFIXES = frozenset(("cost", "prefix-cache", "lora-affinity"))
_SOON = 64  # answers and prompts that weigh as much as all before them


class Sent(NamedTuple):
    """A request went to a replica. `blocks`: hashes of its prompt's blocks."""

    service: str
    address: str
    tokens: int
    adapter: str
    blocks: Sequence[int]


class Ended(NamedTuple):
    """Its answer ended, or failed."""

    service: str
    address: str
    tokens: int
    adapter: str


class Spent(NamedTuple):
    """Tokens charged to a tenant; negative: given back."""

    tenant: str
    tokens: float


class Learnt(NamedTuple):
    """Sums over `requests` of which usage came: what prompts and answers are like."""

    service: str
    requests: int
    prompt_bytes: int
    prompt_tokens: int
    answer_tokens: int


Event = Sent | Ended | Spent | Learnt


class Ticket(NamedTuple):
    """A request of ours in flight: keep it for `ended`."""

    number: int
    sent: Sent
    endpoint: Endpoint


class Candidates(NamedTuple):
    """Replicas that may get a request, three parallel sequences; `kind` and `degraded`: in which lesser way they were found."""

    replicas: Sequence[Replica]
    endpoints: Sequence[Endpoint]
    numbers: Sequence[int]
    kind: str = ""
    degraded: str = ""


class Replica:
    """One engine. `number` is its bit in the prefix index."""

    __slots__ = (
        *("address", "blind", "draining", "endpoint", "full", "gone", "hung", "incarnation", "kv_tokens", "leaving"),
        *("limits", "models", "number", "pool", "proven", "ready", "since", "source"),
    )

    def __init__(self, address: str, pool: str, limits: Pool | None, number: int) -> None:
        self.address, self.pool, self.limits, self.number = address, pool, limits, number
        self.ready = self.draining = self.hung = self.blind = self.full = False
        self.gone = False
        """Nobody listens there, or there is no way to it: its own word, where silence may be the picker's fault."""
        self.leaving = False
        """Its sidecar says that it drains, which may be before Kubernetes does."""
        self.since = -1
        """When it was first ready, as far as this picker has seen it; microseconds."""
        self.source = ""
        """How it is known: stream, or page."""
        self.proven = False
        """It was ready once, in this incarnation."""
        self.incarnation = ""
        self.kv_tokens = 0
        self.models: frozenset[str] | None = None
        self.endpoint = self.renewed()

    def renewed(self) -> Endpoint:
        """Its endpoint as if nothing had been sent yet."""
        profile, slots = (self.limits.profile, self.limits.slots) if self.limits else (None, 1)
        self.endpoint = Endpoint(self.address, profile, self.kv_tokens, slots)
        return self.endpoint

    @property
    def status(self) -> str:
        if self.draining or self.leaving:
            return "draining"
        if not self.ready:
            return "not ready"
        if self.hung:
            return "hung"
        return "full" if self.full else "no metrics" if self.blind else "ready"


class Fleet:
    """The replicas of one service."""

    def __init__(self, config: Service) -> None:
        self.adopt(config)
        self.replicas: dict[str, Replica] = {}
        self.index = PrefixIndex()
        self.found: dict[str, Candidates] = {}
        """By adapter; emptied by every change."""
        self.seen: dict[str, int] = {}
        """Addresses that DNS names, and since when."""
        self.flying = 0
        """Our requests in flight."""
        self.bytes_per_token = BYTES_PER_TOKEN
        self.answer_tokens = _ANSWER

    def adopt(self, config: Service) -> None:
        self.config = config
        strategy = config.fallback if config.strategy == CUSTOM else config.strategy
        self.rule = routing.Config(strategy, config.fallback, config.weights)
        self.prefixes = config.strategy == CUSTOM or bool(_PREFIXES & {config.strategy, *config.weights})
        """Whether a choice depends on what is cached where."""

    def tokens(self, size: int) -> int:
        """Estimate for a prompt of `size` bytes; at least 1."""
        return int(size / self.bytes_per_token) + 1

    def admit(self, replica: Replica) -> None:
        """An empty cache, as large as the engine's."""
        tokens = replica.endpoint.kv_tokens
        self.index.admit(replica.number, max(1, int(tokens * BYTES_PER_TOKEN / BLOCK_BYTES)) if tokens else _BLOCKS)

    def serves(self, replica: Replica, adapter: str) -> bool:
        if not adapter:
            return True
        if replica.models is None:  # without a sidecar the engine has had them from its start
            return adapter in self.config.everywhere and not self.config.runtime
        return adapter in replica.models

    def candidates(self, adapter: str) -> Candidates:
        """For the base model with adapter "". Empty: nobody can answer now."""
        found = self.found.get(adapter)
        if found is None:
            found = self._find(adapter)
            if len(self.found) < 4096:  # names that come from requests must not fill memory
                self.found[adapter] = found
        return found

    def _find(self, adapter: str) -> Candidates:
        there = [
            one for one in self.replicas.values() if not (one.draining or one.leaving) and self.serves(one, adapter)
        ]
        able = [one for one in there if one.ready]
        usable = [one for one in able if not one.hung]
        kind = degraded = ""
        if there and not able:  # a lost API server, or lost nodes, make all of them unready at once
            usable = [one for one in there if one.proven and not one.hung]
            kind, degraded = "unready", "Kubernetes calls no replica ready: those that answer are used"
        elif able and not usable:
            usable = [one for one in able if not one.gone]
            kind, degraded = "scrapes", "no replica answers the picker: all that may be well are used"
        usable = [one for one in usable if not one.full] or usable
        if not kind and (blind := [one.address for one in usable if one.blind]):
            kind, degraded = "metrics", f"no metrics of {blind[0]}" + (f" and {len(blind) - 1} more" * (len(blind) > 1))
        return Candidates(usable, [one.endpoint for one in usable], [one.number for one in usable], kind, degraded)

    def number(self) -> int:
        """The lowest that is free: bit masks stay short."""
        taken = {one.number for one in self.replicas.values()}
        return next(number for number in range(len(taken) + 1) if number not in taken)


class State:
    """`sharing`: whether other pickers want to hear of what is done here; `dns`: whether Envoy learns addresses by DNS, so that
    `visible` must have named one before a request that was held may go there."""

    def __init__(self, config: Config, now: int, *, sharing: bool = False, dns: bool = False) -> None:
        self.fleets: dict[str, Fleet] = {}
        self.outbox: list[Event] = []
        self.held: dict[str, int] = {}
        """Requests that wait, by service."""
        self.awaited: Counter[tuple[str, str]] = Counter()
        """And by service and model: these may only go where Envoy can go as well."""
        self.asked: Counter[tuple[str, str]] = Counter()
        """Requests for adapters since the start, by service and adapter, whatever became of them."""
        self.changed: Callable[[str, int], None] = lambda service, now: None
        """Called when the candidates of a service may have changed."""
        self.peers: dict[str, dict[Ended, list[Endpoint]]] = {}
        """What each of the other pickers has in flight."""
        self._sharing, self._dns = sharing, dns
        self._flying: dict[int, Sent] = {}
        self._next = 0
        self._budgets: dict[str, budget.Bucket] = {}
        self.configure(config, now)

    def configure(self, config: Config, now: int) -> None:
        """A new config; replicas, counts and caches of services and pools that did not change stay."""
        self.config = config
        self.fleets = {
            name: self._kept(self.fleets.get(name), service, now) for name, service in config.services.items()
        }
        self._budgets = {
            name: self._budgets.get(name) or budget.full(limit, now) for name, limit in config.budgets.items()
        }
        for name in {*config.services, *self.held}:
            self.changed(name, now)

    def _kept(self, fleet: Fleet | None, service: Service, now: int) -> Fleet:
        if fleet is None:
            return Fleet(service)
        fleet.adopt(service)
        for replica in fleet.replicas.values():
            if replica.limits != service.pools.get(replica.pool):
                replica.limits = service.pools.get(replica.pool)
                replica.renewed()
        fleet.found.clear()
        return fleet

    # what observers say

    def replica(
        self, service: str, address: str, pool: str, *, ready: bool, draining: bool, incarnation: str, now: int
    ) -> None:
        """There is a replica at `address` ("ip:port"). `incarnation` changes when its engine restarts: what was sent to it and
        its cache are gone then."""
        fleet = self.fleets.get(service)
        if fleet is None:
            return
        one = fleet.replicas.get(address)
        if one is None or one.pool != pool or one.incarnation != incarnation:
            number = fleet.number() if one is None else one.number
            one = fleet.replicas[address] = Replica(address, pool, fleet.config.pools.get(pool), number)
            one.incarnation = incarnation
            one.endpoint.answer_tokens = fleet.answer_tokens
            fleet.admit(one)
        elif (one.ready, one.draining) == (ready, draining):
            return
        if ready and one.since < 0:
            one.since = now
        one.ready, one.draining, one.proven = ready, draining, one.proven or ready
        self._changed(fleet, now)

    def gone(self, service: str, address: str) -> None:
        fleet = self.fleets.get(service)
        if fleet and (one := fleet.replicas.pop(address, None)):
            fleet.index.forget(one.number)
            fleet.found.clear()

    def report(
        self, service: str, address: str, *, running: int, waiting: int, kv_share: float, kv_tokens: int, now: int
    ) -> None:
        """One good scrape. `kv_share`: used part of the KV cache; `kv_tokens`: its size, 0 where unknown."""
        fleet, one = self._find(service, address)
        if one is None:
            return
        if kv_tokens and kv_tokens != one.kv_tokens:
            one.kv_tokens = one.endpoint.kv_tokens = kv_tokens
            fleet.admit(one)
        one.endpoint.reported(running, waiting, int(kv_share * one.endpoint.kv_tokens), now)
        full = kv_share >= FULL
        if one.hung or one.blind or one.gone or one.full != full:
            one.hung, one.blind, one.full, one.gone = False, False, full, False
            self._changed(fleet, now)

    def failed(self, service: str, address: str, *, hung: bool, gone: bool = False, now: int) -> None:
        """A scrape brought nothing. `hung`: no answer at all, the engine is not used; else only its metrics are missing.
        `gone`: the connection was refused."""
        fleet, one = self._find(service, address)
        if one is None:
            return
        one.endpoint.others = 0  # of an old report; wrong for longer and longer
        if (one.hung, one.blind, one.full, one.gone) != (hung, not hung, False, gone):
            one.hung, one.blind, one.full, one.gone = hung, not hung, False, gone
            self._changed(fleet, now)

    def leaves(self, service: str, address: str, leaving: bool, source: str, now: int) -> None:
        """What is known of a replica comes from its sidecar's stream or from its page; and whether it drains."""
        fleet, one = self._find(service, address)
        if one is None:
            return
        one.source = source
        if one.leaving != leaving:
            one.leaving = leaving
            self._changed(fleet, now)

    def serves(self, service: str, address: str, models: frozenset[str], now: int) -> None:
        """The names that the engine lists."""
        fleet, one = self._find(service, address)
        if one is not None and one.models != models:
            one.models = models
            self._changed(fleet, now)

    def visible(self, service: str, addresses: frozenset[str], now: int) -> None:
        """The IP addresses, without port, that DNS gives for the service's host."""
        if fleet := self.fleets.get(service):
            fleet.seen = {address: fleet.seen.get(address, now) for address in addresses}
            self.changed(service, now)

    def known(self, service: str, replica: Replica, now: int) -> bool:
        """Whether Envoy has heard of it by now."""
        if not self._dns:
            return True
        if 0 <= replica.since <= now - NAMED_US:
            return True
        since = self.fleets[service].seen.get(replica.address.rpartition(":")[0].strip("[]"))
        return since is not None and now - since >= SETTLE_US

    # what other pickers say

    def peer_sent(
        self, peer: str, service: str, address: str, tokens: int, adapter: str, blocks: Sequence[int], now: int
    ) -> None:
        fleet, one = self._find(service, address)
        if one is None:
            return
        one.endpoint.sent(tokens, self._hit(fleet, one, tokens, blocks), now, adapter)
        fleet.index.remember(one.number, blocks)
        key = Ended(service, address, tokens, adapter)
        self.peers.setdefault(peer, {}).setdefault(key, []).append(one.endpoint)

    def peer_ended(self, peer: str, service: str, address: str, tokens: int, adapter: str) -> None:
        ledger = self.peers.get(peer, {})
        key = Ended(service, address, tokens, adapter)
        if endpoints := ledger.get(key):
            endpoints.pop(0).ended(tokens, None, adapter)
            if not endpoints:
                del ledger[key]

    def peer_spent(self, peer: str, tenant: str, tokens: float, now: int) -> None:
        self._charge(tenant, tokens, now)

    def peer_learnt(
        self, peer: str, service: str, requests: int, prompt_bytes: int, prompt_tokens: int, answer_tokens: int
    ) -> None:
        """Usage reaches one picker; this is how the others learn from it."""
        self._learn(Learnt(service, requests, prompt_bytes, prompt_tokens, answer_tokens))

    def forget_peer(self, peer: str) -> None:
        """Its requests in flight count no more; the engines' own reports still tell of them."""
        for key, endpoints in self.peers.pop(peer, {}).items():
            for endpoint in endpoints:
                endpoint.ended(key.tokens, None, key.adapter)

    def in_flight(self) -> Iterable[Sent]:
        """Of our own: what a peer that has just connected must hear first."""
        return self._flying.values()

    def holding(self) -> Mapping[str, int]:
        """Service -> requests that wait here."""
        return self.held

    # what this picker does

    def sent(self, fleet: Fleet, replica: Replica, tokens: int, hit: int, event: Sent, now: int) -> Ticket:
        """A request goes to a replica; `hit`: tokens of its prompt thought to be cached there."""
        replica.endpoint.sent(tokens, hit, now, event.adapter)
        if event.blocks:
            fleet.index.remember(replica.number, event.blocks)
        fleet.flying += 1
        self._next += 1
        self._flying[self._next] = event
        if self._sharing:
            self.outbox.append(event)
        return Ticket(self._next, event, replica.endpoint)

    def ended(self, ticket: Ticket) -> None:
        """Call it once for each ticket. The replica may be gone or another by now: its old endpoint takes it."""
        event = ticket.sent
        del self._flying[ticket.number]
        ticket.endpoint.ended(event.tokens, None, event.adapter)
        if fleet := self.fleets.get(event.service):
            fleet.flying -= 1
        if self._sharing:
            self.outbox.append(Ended(event.service, event.address, event.tokens, event.adapter))

    def budget_wait(self, tenant: str, tokens: float, now: int) -> int:
        """Seconds until the tenant may use so many tokens; 0: now, or it has no budget."""
        bucket = self._budgets.get(tenant)
        return budget.wait_seconds(self.config.budgets[tenant], bucket, tokens, now) if bucket else 0

    def spend(self, tenant: str, tokens: float, now: int) -> None:
        if self._charge(tenant, tokens, now) and self._sharing:
            self.outbox.append(Spent(tenant, tokens))

    def learn(self, event: Learnt) -> None:
        self._learn(event)
        if self._sharing:
            self.outbox.append(event)

    def describe(self, now: int) -> dict[str, Any]:
        """For people: /state."""
        return {
            name: {
                "in_flight": fleet.flying,
                "held": self.held.get(name, 0),
                "bytes_per_token": round(fleet.bytes_per_token, 3),
                "answer_tokens": round(fleet.answer_tokens, 1),
                "replicas": {address: _described(fleet, one, now) for address, one in sorted(fleet.replicas.items())},
            }
            for name, fleet in self.fleets.items()
        }

    def _find(self, service: str, address: str) -> tuple[Fleet, Replica] | tuple[Any, None]:
        fleet = self.fleets.get(service)
        one = fleet.replicas.get(address) if fleet else None
        return (fleet, one) if fleet and one else (None, None)

    def _changed(self, fleet: Fleet, now: int) -> None:
        fleet.found.clear()
        self.changed(fleet.config.name, now)

    def _hit(self, fleet: Fleet, replica: Replica, tokens: int, blocks: Sequence[int]) -> int:
        found = fleet.index.match(blocks, (replica.number,))[0] if blocks else 0
        return min(tokens - 1, int(found * BLOCK_BYTES / fleet.bytes_per_token)) if found else 0

    def _charge(self, tenant: str, tokens: float, now: int) -> bool:
        bucket = self._budgets.get(tenant)
        if bucket is None:
            return False
        self._budgets[tenant] = budget.spend(self.config.budgets[tenant], bucket, tokens, now)
        return True

    def _learn(self, event: Learnt) -> None:
        fleet = self.fleets.get(event.service)
        if fleet is None or event.requests <= 0:
            return
        share = min(1.0, event.requests / _SOON)
        fleet.answer_tokens += (event.answer_tokens / event.requests - fleet.answer_tokens) * share
        for one in fleet.replicas.values():
            one.endpoint.answer_tokens = fleet.answer_tokens
        if event.prompt_tokens > 0 and event.prompt_bytes > 0:
            measured = min(max(event.prompt_bytes / event.prompt_tokens, 0.5), 16.0)
            fleet.bytes_per_token += (measured - fleet.bytes_per_token) * share


def _described(fleet: Fleet, one: Replica, now: int) -> dict[str, Any]:
    endpoint = one.endpoint
    age = None if endpoint.reported_us < 0 else round((now - endpoint.reported_us) / 1e6, 2)
    return {
        "status": one.status,
        "pool": one.pool,
        "incarnation": one.incarnation,
        "in_flight": endpoint.in_flight,
        "others": endpoint.others,
        "running": endpoint.running,
        "waiting": endpoint.waiting,
        "kv_used": endpoint.kv_used,
        "kv_tokens": endpoint.kv_tokens,
        "report_age_seconds": age,
        "queued_ms": round(endpoint.queued_ms(now), 1),
        "prefix_blocks": fleet.index.held(one.number),
        "source": one.source,
        "adapters": None if one.models is None else len(one.models - {fleet.config.model}),
    }
