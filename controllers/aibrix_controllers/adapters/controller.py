"""From what is seen to what is done: one loop, which decides whenever something has changed, and what it remembers in between.

What it remembers is only what is under way and when a failed load may be tried again. Everything else is read from Kubernetes, the
sidecars and the pickers, so that a new leader goes on where the old one stopped.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aibrix_compile.policy import placement
from aibrix_controllers.adapters import decide, status, wanted
from aibrix_controllers.adapters.decide import Act, Copy, Failure, Todo, Verb, View
from aibrix_controllers.adapters.demand import Demand
from aibrix_controllers.adapters.wanted import Service
from aibrix_controllers.kube.api import Api, Away, Object, Refused
from aibrix_controllers.kube.events import Recorder
from aibrix_controllers.kube.lease import Leader
from aibrix_controllers.kube.watch import Collection
from aibrix_controllers.observe import replicas
from aibrix_controllers.observe.pickers import Pickers
from aibrix_controllers.observe.replicas import Replica
from aibrix_controllers.observe.sidecars import Sidecars

NAME = "aibrix-adapters"
SETS = "/apis/serving.aibrix.ai/v1alpha1/namespaces/{}/adaptersets"
GRACE_US = 30_000_000
"""An adapter that no set has any more stays so long: it may be moving, or a revert is on its way."""
WHOLE_S = 10.0
"""So long a replica that says nothing keeps the others from unloading."""
PERIOD_S, SPACING_S = 1.0, 0.1
"""Between decisions at most and at least."""
STATUS_S = 1.0
IN_ALL = 32
LASTING = frozenset(
    (
        "bad_request",
        "bad_name",
        "uri_not_allowed",
        "not_found",
        "denied",
        "digest_mismatch",
        "too_large",
        "unusable",
        "engine_refused",
    )
)
"""Codes that another try will hardly change."""
LASTING_US, FIRST_US, MOST_US = 300_000_000, 1_000_000, 60_000_000
DRAIN_S = 30.0


class Settings(NamedTuple):
    """`rate`: requests/s of one adapter that one replica should carry; more of them spread."""

    namespace: str
    identity: str
    pickers: tuple[str, ...]
    runtime_token: Path | None
    rate: float


class Clock(NamedTuple):
    """Microseconds that never go back; seconds since 1970; uniform in [0, 1)."""

    now: Callable[[], int]
    wall: Callable[[], float]
    chance: Callable[[], float]


class Controller:
    def __init__(self, settings: Settings, api: Api, clock: Clock, note: Callable[..., None]) -> None:
        self._settings, self._api, self._clock, self._note = settings, api, clock, note
        self.counts: defaultdict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        self.seconds: dict[str, float] = {}
        self._wake = asyncio.Event()
        wake, space = self._wake.set, settings.namespace
        self.sets = Collection(api, SETS.format(space), "", wake, note)
        pods = f"/api/v1/namespaces/{space}/pods"
        self.pods = Collection(api, pods, f"{replicas.SERVICE},{replicas.ROLE}={replicas.SERVE}", wake, note)
        self.sidecars = Sidecars(settings.runtime_token, wake, note)
        self.demand = Demand(clock.now())
        self.pickers = Pickers(settings.pickers, self.demand, clock.now, wake, note)
        self.leader = Leader(api, space, NAME, settings.identity, note, wake, clock.wall)
        self._events = Recorder(api, NAME, settings.identity, clock.wall)
        self._config = placement.Config(settings.rate)
        self._going: dict[Copy, tuple[Verb, asyncio.Task[None]]] = {}
        """By adapter and pod: names of pods are those of one namespace."""
        self._failures: dict[Copy, Failure] = {}
        self._missed: dict[tuple[str, str], int] = {}
        """Service and name of adapters that no set has any more, and since when."""
        self._led = 0.0
        self._written: dict[str, float] = {}
        self.services: dict[str, Service] = {}
        self.todo: dict[str, Todo] = {}

    async def run(self) -> None:
        """Until cancelled."""
        async with self.sidecars:
            parts = (
                self.sets.follow(self._clock.chance),
                self.pods.follow(self._clock.chance),
                self.pickers.follow(),
                self.leader.run(),
                self._loop(),
            )
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(part)

    @property
    def synced(self) -> bool:
        return self.sets.synced.is_set() and self.pods.synced.is_set()

    async def _loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(PERIOD_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            begun = loop.time()
            if self.synced:
                try:
                    await self._once(begun)
                except Exception as error:  # a mistake of ours about one thing must not end all others
                    self._note("broken", why=repr(error))
            took = self.seconds["reconcile"] = loop.time() - begun
            await asyncio.sleep(max(SPACING_S, 2 * took))

    async def _once(self, loop_now: float) -> None:
        now = self._clock.now()
        seen = [one for one in map(replicas.replica, self.pods.objects.values()) if one]
        self.sidecars.follow(seen)
        self.services = wanted.services(self.sets.objects.values())
        self._led = (self._led or loop_now) if self.leader.leads else 0.0
        self._forget(seen)
        todo = {}
        for name, service in sorted(self.services.items()):
            own = [one._replace(line=self.sidecars.lines.get(one.name)) for one in seen if one.service == name]
            view = self._view(service, own, now, loop_now)
            found = todo[name] = decide.decide(view, self._config, now)
            if self.leader.leads:
                for act in found.acts:
                    self._start(service, act, next(one for one in own if one.name == act.replica))
        self.todo = todo
        if self.leader.leads:
            await self._tell(seen, loop_now)

    # --- what is known

    def _view(self, service: Service, replicas: list[Replica], now: int, loop_now: float) -> View:
        held = {name for one in replicas if one.line for name in one.line.adapters}
        gone = {}
        for name in held:
            key = service.name, name
            if name in service.items:
                self._missed.pop(key, None)
            else:
                gone[name] = now - self._missed.setdefault(key, now) >= GRACE_US
        silent = any(one.ready and not one.draining and one.runtime and one.line is None for one in replicas)
        lost = bool(self._settings.pickers) and self.demand.silent(now)
        names = {one.name for one in replicas}
        return View(
            service,
            replicas,
            {name: self.demand.rates(service.name, name, now) for name in service.items},
            {one.name: frozenset(self.demand.in_use(service.name, one.ip)) for one in replicas},
            {copy: verb for copy, (verb, _) in self._going.items() if copy[1] in names},
            {copy: failure for copy, failure in self._failures.items() if copy[1] in names},
            gone,
            self.demand.waiting(service.name),
            # nothing is unloaded on half a picture: before all have spoken, and while nobody tells what is asked for
            whole=not lost and not (silent and loop_now - self._led < WHOLE_S),
        )

    def _forget(self, replicas: list[Replica]) -> None:
        """What concerned pods and adapters that are no more."""
        names = {one.name for one in replicas}
        items = {name for service in self.services.values() for name in service.items}
        for copy in [copy for copy in self._failures if copy[1] not in names or copy[0] not in items]:
            del self._failures[copy]
        known = {(service, name) for service, name in self._missed if service in self.services}
        held = {name for line in self.sidecars.lines.values() for name in line.adapters}
        self._missed = {key: since for key, since in self._missed.items() if key in known and key[1] in held}

    # --- what is done

    def _start(self, service: Service, act: Act, replica: Replica) -> None:
        if len(self._going) >= IN_ALL or (act.adapter, act.replica) in self._going:
            return
        task = asyncio.create_task(self._do(service, act, replica))
        self._going[act.adapter, act.replica] = act.verb, task
        task.add_done_callback(lambda _: self._done(act))

    def _done(self, act: Act) -> None:
        self._going.pop((act.adapter, act.replica), None)
        self._wake.set()

    async def _do(self, service: Service, act: Act, replica: Replica) -> None:
        item, copy = service.items.get(act.adapter), (act.adapter, act.replica)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if act.verb == "unload":
            body: Mapping[str, Any] = {"lora_name": act.adapter, "drain_s": DRAIN_S}
            code, message = await self.sidecars.act(replica.runtime, "/v1/lora_adapter/unload", body)
            code = "" if code == "not_loaded" else code
        else:
            assert item
            code, message = await self.sidecars.act(replica.runtime, "/v1/lora_adapter/load", item.request(DRAIN_S))
        took = loop.time() - begun
        verb = "unloads" if act.verb == "unload" else "loads"
        self.count(f"adapters_{verb}_total", result=code or "done")
        self.count("adapters_act_seconds_total", took, verb=act.verb)
        self._note(
            act.verb if not code else f"{act.verb}_failed",
            adapter=act.adapter,
            replica=act.replica,
            reason=act.reason,
            seconds=round(took, 2),
            **({"code": code, "why": message} if code else {}),
        )
        if not code:
            self._failures.pop(copy, None)
            await self._seen(copy, act.verb)
            return
        before = self._failures.get(copy)
        tries = before.tries + 1 if before and before.item == item else 1
        wait = LASTING_US if code in LASTING else min(MOST_US, FIRST_US << min(tries - 1, 8))
        until = self._clock.now() + int(wait * (0.8 + 0.4 * self._clock.chance()))
        self._failures[copy] = Failure(code, message, tries, until, item)

    async def _seen(self, copy: Copy, verb: Verb) -> None:
        """The stream says it too, a moment later: until then it is under way, or it would be done twice."""
        for _ in range(20):
            line = self.sidecars.lines.get(copy[1])
            if line is None or (copy[0] in line.adapters) == (verb != "unload"):
                return
            await asyncio.sleep(0.05)

    # --- what is told

    async def _tell(self, replicas: list[Replica], loop_now: float) -> None:
        for name, service in self.services.items():
            own = [one for one in replicas if one.service == name]
            lines = (one._replace(line=self.sidecars.lines.get(one.name)) for one in own)
            ready = sum(one.serves for one in lines)
            for home in service.sets:
                one = self.sets.objects.get(home)
                if one is None or loop_now - self._written.get(home, 0.0) < STATUS_S:
                    continue
                fresh = status.status(one, service, self.todo[name], ready=ready, wall=self._clock.wall())
                if fresh != one.get("status"):
                    self._written[home] = loop_now
                    await self._write(one, fresh)
                    await self._warn(one, fresh)

    async def _write(self, one: Object, fresh: Mapping[str, Any]) -> None:
        path = f"{SETS.format(self._settings.namespace)}/{one['metadata']['name']}/status"
        try:
            self.sets.objects[one["metadata"]["name"]] = await self._api.patch(path, {"status": fresh}, NAME)
        except Refused as error:
            if error.status != 404:  # it was deleted meanwhile
                self._note("status_refused", set=one["metadata"]["name"], why=str(error))
        except Away as error:
            self._note("status_not_written", set=one["metadata"]["name"], why=str(error))

    async def _warn(self, one: Object, fresh: Mapping[str, Any]) -> None:
        """What is new and lasting, as events: at most a handful of them, status has all."""
        old = {(row["name"], row["reason"]) for row in one.get("status", {}).get("exceptions", ())}
        lasting = [row for row in fresh["exceptions"] if row["reason"] not in ("Loading", "Waiting", "NoReplicas")]
        fresh_ones = [row for row in lasting if (row["name"], row["reason"]) not in old][:5]
        about = {"apiVersion": "serving.aibrix.ai/v1alpha1", "kind": "AdapterSet", **one}
        for row in fresh_ones:
            note = f"{row['name']}{' on ' + row['replica'] if row['replica'] else ''}: {row['message']}"
            await self._events.tell(about, "Warning", row["reason"], "Load", note)

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        self.counts[name, tuple(sorted(labels.items()))] += by

    def explain(self, name: str) -> str:
        """Why an adapter is where it is; empty if no set has it."""
        lines = []
        now = self._clock.now()
        for service in self.services.values():
            if (item := service.items.get(name)) is None:
                continue
            rates = self.demand.rates(service.name, name, now)
            wants = "on every replica" if item.everywhere else f"on {item.least} replicas at least"
            lines.append(f"{name} of service {service.name}, AdapterSet {item.home}: {wants}, priority {item.priority}")
            lines.append(f"  {item.uri} {item.digest or '(any content)'}")
            lines.append(f"  asked for {rates[0]:.3g} times/s in the last minute, {rates[1]:.3g} in 15 minutes")
            todo = self.todo.get(service.name)
            for replica in todo.placed.get(name, ()) if todo else ():
                line = self.sidecars.lines.get(replica)
                held = line.adapters.get(name) if line else None
                lines.append(f"  {replica}: {f'serves {held.digest}' if held else 'does not serve it yet'}")
            for row in todo.wrong if todo else ():
                if row.adapter == name:
                    lines.append(f"  {row.replica or 'nowhere'}: {row.reason}: {row.message}")
            for (adapter, replica), failure in sorted(self._failures.items()):
                if adapter == name:
                    lines.append(
                        f"  {replica}: {failure.tries} tries, the next one in {max(0, failure.until - now) / 1e6:.0f} s"
                    )
        return "\n".join(lines) + "\n" if lines else ""
