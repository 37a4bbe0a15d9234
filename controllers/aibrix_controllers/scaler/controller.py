"""From what is seen to a number: each second a look, every other second a decision, a patch only when the number moves.

It owns one field, `spec.replicas` of its targets, through the subresource `scale` and under its own field manager. It compares with the
live number each time and remembers none, because a sync of Git or a hand may write one, too. What it remembers are windows of what it
saw; without them - a new leader - nothing is scaled down before they are full again, which is `policy.observation.Memory`'s rule.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from aibrix_compile.policy import autoscaling
from aibrix_compile.policy.observation import Memory, PoolState
from aibrix_controllers.kube.api import Api, Away, Object, Refused
from aibrix_controllers.kube.conditions import Verdict
from aibrix_controllers.kube.events import Recorder
from aibrix_controllers.kube.lease import Leader
from aibrix_controllers.kube.watch import Collection
from aibrix_controllers.observe import replicas as seen
from aibrix_controllers.observe.pickers import Pickers
from aibrix_controllers.observe.sidecars import Sidecars
from aibrix_controllers.scaler import kept, state, status, wanted
from aibrix_controllers.scaler.status import Change
from aibrix_controllers.scaler.wanted import Policy, Target, Unusable
from aibrix_controllers.scaler.watched import Replica, Watched

NAME = "aibrix-scaler"
POLICIES = "/apis/serving.aibrix.ai/v1alpha1/namespaces/{}/scalingpolicies"
LOOK_S, DECIDE_S, LIVE_S, STATUS_S, MESSAGE_S = 1.0, 2.0, 5.0, 2.0, 30.0
"""Looks; decisions; how old a live number may be; between two writes of a status, and where only figures changed."""
YOUNG_S = 300
"""A scaler that has watched for less says so: it has no window yet by which it could scale down."""
FLAPS, FLAP_S = 4, 600.0
"""So many reversals within ten minutes are said."""


class Settings(NamedTuple):
    namespace: str
    identity: str
    pickers: tuple[str, ...]
    runtime_token: Path | None


class Clock(NamedTuple):
    """Microseconds since 1970; uniform in [0, 1)."""

    now: Callable[[], int]
    chance: Callable[[], float]


@dataclass(slots=True)
class Service:
    """What is remembered of one policy."""

    policy: Policy
    watched: Watched
    memory: Memory = field(default_factory=Memory)
    live: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Target -> when its number was read, and what it was."""
    changes: deque[Change] = field(default_factory=lambda: deque(maxlen=status.MOST))
    decision: autoscaling.Decision | None = None
    failed: str = ""
    """Why the last number could not be read or written."""
    written: float = 0.0
    replicas: list[Replica] = field(default_factory=list)
    states: tuple[PoolState, ...] = ()


class Controller:
    def __init__(self, settings: Settings, api: Api, clock: Clock, note: Callable[..., None]) -> None:
        self._settings, self._api, self._clock, self._note = settings, api, clock, note
        self.counts: defaultdict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        self._wake = asyncio.Event()
        wake, space = self._wake.set, settings.namespace
        self.policies = Collection(api, POLICIES.format(space), "", wake, note)
        pods = f"/api/v1/namespaces/{space}/pods"
        self.pods = Collection(api, pods, f"{seen.SERVICE},{seen.ROLE}={seen.SERVE}", lambda: None, note)
        self.sidecars = Sidecars(settings.runtime_token, lambda: None, note)
        self._pods = state.Pods()
        self.counted = state.Counted()
        self.pickers = Pickers(settings.pickers, self.counted, clock.now, wake, note)
        self.leader = Leader(api, space, NAME, settings.identity, note, wake, self._wall)
        self._events = Recorder(api, NAME, settings.identity, self._wall)
        self.services: dict[str, Service] = {}
        self.unusable: dict[str, str] = {}

    def _wall(self) -> float:
        return self._clock.now() / 1e6

    async def run(self) -> None:
        """Until cancelled."""
        async with self.sidecars:
            parts = (
                self.policies.follow(self._clock.chance),
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
        return self.policies.synced.is_set() and self.pods.synced.is_set()

    async def _loop(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()  # a request waits that no replica can take, or a policy changed
                due = loop.time()
            except TimeoutError:
                pass
            self._wake.clear()
            if not self.synced:
                continue
            try:
                self._look()
                if self.leader.leads and loop.time() >= due:
                    due = loop.time() + DECIDE_S
                    serving = (self._serve(name, one) for name, one in self.services.items())
                    for error in await asyncio.gather(*serving, return_exceptions=True):
                        if isinstance(error, Exception):  # a mistake of ours about one service must not end all others
                            self._note("broken", why=repr(error))
                    await self._refuse()
            except Exception as error:
                self._note("broken", why=repr(error))
            await asyncio.sleep(0.2)

    # --- what is seen

    def _look(self) -> None:
        now = self._clock.now()
        self._read(now)
        self._pods.look(self.pods.objects)
        self.sidecars.follow(self._pods.reachable())
        for one in self.services.values():
            targets = [target.name for target in one.policy.targets]
            found = state.replicas(self._pods.of(one.policy.service), targets, self.sidecars.lines, self._wall())
            one.replicas = found
            pages = self.counted.of(one.policy.service) if self._settings.pickers else None
            one.watched.look(now, found, pages)

    def _read(self, now: int) -> None:
        """Policies as they are. One that changed keeps its windows unless it follows something else."""
        self.unusable = {}
        for name, value in self.policies.objects.items():
            try:
                policy = wanted.policy(value)
            except Unusable as error:
                self.unusable[name] = str(error)
                self.services.pop(name, None)
                continue
            known = self.services.get(name)
            if known and (known.policy.metric, known.policy.stable) == (policy.metric, policy.stable):
                known.policy = policy
            else:
                past = kept.read(value.get("status", {}).get("history", {}))
                cold = policy.config.cold_start_seconds
                watched = Watched(now, policy.metric, policy.stable, policy.panic, cold, past)
                self.services[name] = Service(policy, watched)
        for gone in self.services.keys() - self.policies.objects.keys():
            del self.services[gone]

    # --- what is done

    async def _serve(self, name: str, one: Service) -> None:
        policy, now = one.policy, self._clock.now()
        one.failed = ""
        try:
            sizes = {target.name: await self._live(one, target, fresh=False) for target in policy.targets}
        except (Away, Refused) as error:
            one.failed = f"a live number can not be read: {error}"
            self.count("scaler_holds_total", reason="unreadable")
            await self._tell(name, one)
            return
        one.states = state.pools(one.replicas, [target.name for target in policy.targets], sizes)
        observation = one.watched.observe(now, one.states)
        decision = autoscaling.decide(policy.config, observation, now, one.memory, one.watched.signals.history)
        one.memory, one.decision = decision.memory, decision
        for target, size, count in zip(policy.targets, sizes.values(), decision.counts, strict=True):
            if count != size:
                await self._scale(one, target, size, count, decision.reason)
        await self._tell(name, one)

    async def _live(self, one: Service, target: Target, *, fresh: bool) -> int:
        at, size = one.live.get(target.name, (-LIVE_S, 0))
        loop = asyncio.get_running_loop()
        if fresh or loop.time() - at >= LIVE_S:
            found = await self._api.get(target.scale(self._settings.namespace))
            size = int(found["spec"].get("replicas", 0))
            one.live[target.name] = loop.time(), size
        return size

    async def _scale(self, one: Service, target: Target, size: int, count: int, reason: str) -> None:
        """If the number is still the one that was decided on: else somebody else has written it, and the next decision sees that."""
        path = target.scale(self._settings.namespace)
        try:
            if await self._live(one, target, fresh=True) != size:
                self._note("overtaken", target=target.name, thought=size, found=one.live[target.name][1])
                return
            await self._api.patch(path, {"spec": {"replicas": count}}, NAME)
        except (Away, Refused) as error:
            one.failed = f"{target.name} could not be set to {count}: {error}"
            self._note("scale_failed", target=target.name, to=count, why=str(error))
            self.count("scaler_scale_failed_total", target=target.name)
            return
        one.live[target.name] = asyncio.get_running_loop().time(), count
        one.changes.appendleft(Change(self._wall(), target.name, size, count, reason))
        self.count("scaler_changes_total", target=target.name, direction="up" if count > size else "down")
        self._note("scaled", target=target.name, before=size, to=count, reason=reason)
        value = self.policies.objects.get(one.policy.name)
        if value:
            await self._event(value, "Normal", "Scaled", f"{target.name} {size} -> {count}: {reason}")

    # --- what is told

    async def _tell(self, name: str, one: Service) -> None:
        value, loop_now = self.policies.objects.get(name), asyncio.get_running_loop().time()
        if value is None or loop_now - one.written < STATUS_S:
            return
        ready = {t.name: s.ready for t, s in zip(one.policy.targets, one.states, strict=False)}
        sizes = {target.name: one.live.get(target.name, (0.0, 0))[1] for target in one.policy.targets}
        verdicts = self._verdicts(one)
        past = kept.written(one.watched.signals.history) if one.policy.config.seasonal else {}
        fresh = status.status(value, sizes, ready, list(one.changes), verdicts, self._wall(), past)
        before = value.get("status", {})
        news = status.silent(fresh) != status.silent(before)
        if news or (fresh != before and loop_now - one.written >= MESSAGE_S):
            one.written = loop_now
            await self._write(value, fresh)
            if not news:
                return
            for verdict in verdicts:
                if verdict.on and verdict.kind != "Ready":
                    await self._event(value, "Warning", verdict.reason, verdict.message)

    def _verdicts(self, one: Service) -> list[Verdict]:
        decision = one.decision
        limits = (
            [limit for limit in decision.limited_by if limit in ("max", "maxGPUs", "maxCostPerHour")]
            if decision
            else []
        )
        missing = bool(decision and "missing" in decision.limited_by)
        flaps = self._flaps(one)
        if one.failed:
            degraded = True, "CanNotScale", one.failed
        elif missing:
            assert decision
            degraded = True, "DataMissing", f"the number is held: {decision.reason}"
        else:
            degraded = False, "AsWanted", ""
        said = decision.reason if decision else ""
        young = YOUNG_S - (self._clock.now() - one.watched.start) / 1e6
        if young > 0 and decision:
            said = f"begun anew {YOUNG_S - young:.0f} s ago, nothing goes down before a whole window was seen: {said}"
        reason = limits[0][0].upper() + limits[0][1:] if limits else "WithinLimits"
        return [
            Verdict(
                "Ready",
                decision is not None and not one.failed,
                "Starting" if not decision else "Learning" if young > 0 else "Deciding",
                said,
            ),
            Verdict("Limited", bool(limits), reason, said if limits else ""),
            Verdict(
                "Flapping",
                flaps >= FLAPS,
                "Reversals" if flaps >= FLAPS else "Steady",
                f"{flaps} reversals in {FLAP_S / 60:.0f} minutes" if flaps >= FLAPS else "",
            ),
            Verdict("Degraded", *degraded),
        ]

    def flapping(self, one: Service) -> bool:
        return self._flaps(one) >= FLAPS

    def _flaps(self, one: Service) -> int:
        since = self._wall() - FLAP_S
        ways = [(change.after > change.before) for change in one.changes if change.wall >= since]
        return sum(a != b for a, b in pairwise(ways))

    async def _refuse(self) -> None:
        """Policies that can not be followed say why."""
        for name, why in self.unusable.items():
            value = self.policies.objects[name]
            verdicts = [Verdict("Ready", False, "Unusable", why), Verdict("Degraded", True, "Unusable", why)]
            fresh = status.status(value, {}, {}, [], verdicts, self._wall(), {})
            if fresh != value.get("status"):
                await self._write(value, fresh)
                await self._event(value, "Warning", "Unusable", why)

    async def _write(self, value: Object, fresh: Mapping[str, Any]) -> None:
        name = value["metadata"]["name"]
        path = f"{POLICIES.format(self._settings.namespace)}/{name}/status"
        try:
            self.policies.objects[name] = await self._api.patch(path, {"status": fresh}, NAME)
        except (Away, Refused) as error:
            if not (isinstance(error, Refused) and error.status == 404):  # it was deleted meanwhile
                self._note("status_not_written", policy=name, why=str(error))

    async def _event(self, value: Object, kind: str, reason: str, note: str) -> None:
        about = {"apiVersion": "serving.aibrix.ai/v1alpha1", "kind": "ScalingPolicy", **value}
        await self._events.tell(about, kind, reason, "Scale", note)

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        self.counts[name, tuple(sorted(labels.items()))] += by

    def explain(self, name: str) -> str:
        """Why a service has so many replicas: the last decision with its terms; empty if no policy is of it."""
        for one in self.services.values():
            if one.policy.service != name:
                continue
            now = self._clock.now()
            found = [
                f"{name}: {one.decision.value if one.decision else '?'} replicas: {one.decision.reason if one.decision else 'no decision yet'}"
            ]
            observation = one.watched.observe(now, one.states)
            if one.states:
                terms = autoscaling.terms(one.policy.config, observation, now, one.memory, one.watched.signals.history)
                found += [f"  {term}: {value:g}" for term, value in terms.items()]
            for change in one.changes:
                found.append(f"  {change.target} {change.before} -> {change.after}: {change.reason}")
            return "\n".join(found) + "\n"
        return ""
