"""Adapters on the replicas of a run: `policy.placement` decides each second, as the adapter controller does in the cluster, from
the demand that pickers would have counted; a load takes its time, and a request goes only where its adapter is.

An adapter that no item of the service names is placed as one without a minimum, so that a trace can be tried before items are
written.
"""

from __future__ import annotations

from collections.abc import Mapping

from aibrix_compile.policy import placement
from aibrix_compile.policy.windows import SECOND, Series
from aibrix_compile.simulate.fleet import Fleet, Replica, Setup

MINUTE, QUARTER = 60, 900
AT_ONCE = 2
"""Loads on one replica, as the controller has it."""


class Placing:
    """`loads` and `unloads` are counts of a whole run."""

    def __init__(self, setup: Setup, fleet: Fleet) -> None:
        assert setup.adapters is not None
        self._setup, self._fleet = setup, fleet
        self._config = placement.Config(placement.RATE)
        self._wanted: dict[str, placement.Adapter] = {one.name: one for one in setup.adapters}
        self._asked: dict[str, Series] = {}
        self._held: dict[int, dict[str, int]] = {}
        """By replica: its adapters, and since when they can be asked for."""
        self.loads = self.unloads = 0
        while self.look(0):  # what is wanted in any case was there before the trace began
            for held in self._held.values():
                held.update(dict.fromkeys(held, 0))
        self.loads = 0

    def asked(self, adapter: str, now: int) -> None:
        """A request for it arrived, whatever becomes of it."""
        if adapter not in self._asked:
            self._asked[adapter] = Series(MINUTE, QUARTER)
            self._wanted.setdefault(adapter, placement.Adapter(adapter))
        self._asked[adapter].add(now, 1)

    def places(self, adapter: str, now: int) -> list[int]:
        """Places in `Fleet.ready` at which it can be asked for."""
        held, never = self._held, now + 1
        return [
            place for place, one in enumerate(self._fleet.ready) if held.get(one.number, {}).get(adapter, never) <= now
        ]

    def look(self, now: int) -> bool:
        """Decides and begins what it decided; whether a load will end `Limits.adapter_fetch_us` from now."""
        there = {one.endpoint.name: one for one in self._fleet.ready}
        self._held = {one.number: self._held.get(one.number, {}) for one in self._fleet.there}
        replicas = [self._replica(one, now) for one in there.values()]
        adapters = [self._adapter(name, one, now) for name, one in self._wanted.items()]
        loading = False
        for step in placement.decide(self._config, adapters, replicas).steps:
            replica = there[step.replica]
            held = self._held[replica.number]
            if step.verb == "unload":
                del held[step.adapter]
                replica.engine.drop(step.adapter)
                self.unloads += 1
            elif sum(since > now for since in held.values()) < AT_ONCE and len(held) < self._slots(replica):
                held[step.adapter] = now + self._setup.pools[replica.pool].limits.adapter_fetch_us
                replica.engine.hold(step.adapter)
                self.loads += 1
                loading = True
        return loading

    def _slots(self, replica: Replica) -> int:
        return self._setup.pools[replica.pool].limits.max_cpu_loras

    def _replica(self, one: Replica, now: int) -> placement.Replica:
        held = self._held[one.number]
        places: Mapping[str, placement.Place] = dict.fromkeys(held, "unknown")
        coming = {name for name, since in held.items() if since > now}
        used = frozenset(name for endpoint in one.endpoints for name in endpoint.adapters) & held.keys()
        limits = self._setup.pools[one.pool].limits
        return placement.Replica(
            one.endpoint.name,
            limits.max_loras,
            limits.max_cpu_loras,
            max_rank=1 << 30,
            loaded=places,
            in_use=used | coming,
            in_flight=one.engine.in_flight,
        )

    def _adapter(self, name: str, one: placement.Adapter, now: int) -> placement.Adapter:
        series = self._asked.get(name)
        if series is None:
            return one
        series.advance(now)
        covered = max(10.0, now / SECOND)
        minute, quarter = series.sums(MINUTE)[0], series.sums(QUARTER)[0]
        return placement.Adapter(
            name,
            one.minimum,
            one.everywhere,
            one.priority,
            rate_60s=minute / min(MINUTE, covered),
            rate_15m=quarter / min(QUARTER, covered),
        )
