"""What to do now for one service: which loads and unloads may begin, and what is not as it should be. A function of what is wanted,
what is seen and what is under way; placement itself is `policy.placement`, which the simulator shares.

Under way counts as done where it must not be done twice, and as not done where somebody relies on it: a copy that is being loaded
takes its slot, one that is being unloaded keeps it until it is gone.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from aibrix_compile.policy import placement
from aibrix_controllers.adapters.wanted import Item, Service
from aibrix_controllers.observe.replicas import Held, Replica

AT_ONCE = 2
"""Loads on one replica: one is fetched while another is read by the engine."""
Verb = Literal["load", "replace", "unload"]
Copy = tuple[str, str]
"""Adapter and replica."""


class Failure(NamedTuple):
    """A load that failed: not before `until` (microseconds) it is tried again. `item`: for what; another item is tried at once."""

    code: str
    message: str
    tries: int
    until: int
    item: Item | None


class Act(NamedTuple):
    verb: Verb
    adapter: str
    replica: str
    reason: str


class Wrong(NamedTuple):
    """An adapter that is not where it should be. `replica` is empty where none has room. `passing`: it is being worked on."""

    adapter: str
    replica: str
    reason: str
    message: str
    passing: bool


@dataclass(frozen=True, slots=True)
class View:
    """All that is known of one service. `rates`: adapter -> requests/s of 60 s and 15 min. `gone`: names that no set has any more,
    and may already be unloaded (True) or not yet. `waiting`: adapters for which requests wait, and since when. `whole`: every replica has been heard, so that something may be unloaded."""

    service: Service
    replicas: Sequence[Replica]
    rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    in_use: Mapping[str, frozenset[str]] = field(default_factory=dict)
    going: Mapping[Copy, Verb] = field(default_factory=dict)
    failures: Mapping[Copy, Failure] = field(default_factory=dict)
    gone: Mapping[str, bool] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Todo:
    """`acts` may begin now, in this order; `wrong` is all that is not as it should be, `settled` the adapters that are."""

    acts: tuple[Act, ...]
    wrong: tuple[Wrong, ...]
    settled: frozenset[str]
    placed: Mapping[str, tuple[str, ...]]


def decide(view: View, config: placement.Config, now: int) -> Todo:
    service = view.service
    serving = {one.name: one for one in view.replicas if one.serves}
    decision = placement.decide(config, _adapters(view), [_replica(view, one) for one in serving.values()])
    steps = _steps(view, decision, serving, now)
    acts = [*steps, *_rolls(view, serving, {one.adapter for one in steps}, now)]
    wrong = list(_wrong(view, decision, serving, now))
    bad = {one.adapter for one in wrong}
    settled = frozenset(name for name in service.items if name not in bad)
    return Todo(tuple(_begin(view, acts, serving)), tuple(wrong), settled, decision.placement)


# --- what placement is asked


def _adapters(view: View) -> list[placement.Adapter]:
    found = []
    for name, item in view.service.items.items():
        minute, quarter = view.rates.get(name, (0.0, 0.0))
        minute = minute or (name in view.waiting) / 60  # a picker that did not know it yet has not counted it
        found.append(
            placement.Adapter(
                name,
                minimum=item.least,
                everywhere=item.everywhere,
                priority=item.priority,
                rank=item.rank,
                rate_60s=minute,
                rate_15m=quarter,
                pinned=not view.whole,
            )
        )
    # in no set any more, but not for long: it may only be moving
    held = {name for one in view.replicas if one.line for name in one.line.adapters} - view.service.items.keys()
    found += [
        placement.Adapter(name, pinned=True) for name in sorted(held) if not view.whole or not view.gone.get(name)
    ]
    return found


def _replica(view: View, one: Replica) -> placement.Replica:
    assert one.line
    service = view.service
    loaded: dict[str, placement.Place] = dict.fromkeys(one.line.adapters, "unknown")
    leaving = 0
    for (name, replica), verb in view.going.items():
        if replica == one.name and verb == "unload":
            leaving += loaded.pop(name, None) is not None
        elif replica == one.name:
            loaded[name] = "unknown"
    busy = view.in_use.get(one.name, frozenset())
    coming = {name for (name, replica), verb in view.going.items() if replica == one.name and verb != "unload"}
    return placement.Replica(
        one.name,
        gpu_slots=service.max_loaded,
        host_slots=max(0, service.max_cached - leaving),
        max_rank=service.max_rank,
        loaded=loaded,
        in_use=frozenset((busy & loaded.keys()) | coming),
        in_flight=one.line.in_flight,
    )


# --- what may begin


def _steps(view: View, decision: placement.Decision, serving: Mapping[str, Replica], now: int) -> list[Act]:
    """In the order of placement. A load waits for the unload that makes its room, and an unload of a copy that moves for the copy
    that replaces it: both come again with the next decision."""
    room = {name: view.service.max_cached - _taken(view, one) for name, one in serving.items()}
    found = []
    coming = {step.adapter for step in decision.steps if step.verb == "load"}
    coming |= {name for (name, _), verb in view.going.items() if verb == "load"}
    for step in decision.steps:
        copy = step.adapter, step.replica
        if copy in view.going or _resting(view, copy, now):
            continue
        if step.verb == "unload":
            if step.adapter in coming and step.reason.startswith("moves"):
                continue
            found.append(Act("unload", *copy, step.reason))
        elif room[step.replica] > 0:
            room[step.replica] -= 1
            found.append(Act("load", *copy, step.reason))
    return found


def _taken(view: View, one: Replica) -> int:
    assert one.line
    coming = {name for (name, replica), verb in view.going.items() if replica == one.name and verb == "load"}
    return len(one.line.adapters.keys() | coming)


def _rolls(view: View, serving: Mapping[str, Replica], moving: set[str], now: int) -> list[Act]:
    """Another content under a name: one replica after the other, and not on where the one before has failed."""
    items, old = view.service.items, defaultdict[str, list[str]](list)
    for one in serving.values():
        for name, held in one.line.adapters.items() if one.line else ():
            if (item := items.get(name)) and not item.is_it(held.digest, held.uri):
                old[name].append(one.name)
    busy = {name for name, _ in view.going} | moving
    failed = {copy[0] for copy in view.failures if copy[0] in old and _stays(view, copy, items[copy[0]], now)}
    found = []
    for name in items:
        if name in old and name not in busy | failed:
            reason = f"another content: {items[name].digest or items[name].uri}"
            found.append(Act("replace", name, min(old[name]), reason))
    return found


def _stays(view: View, copy: Copy, item: Item, now: int) -> bool:
    failure = view.failures[copy]
    return failure.item == item and failure.until > now


def _resting(view: View, copy: Copy, now: int) -> bool:
    failure = view.failures.get(copy)
    return failure is not None and failure.until > now and failure.item == view.service.items.get(copy[0])


def _begin(view: View, acts: Sequence[Act], serving: Mapping[str, Replica]) -> list[Act]:
    """So many at once on each replica. Who has waited longest is first: else names early in the alphabet would always be."""
    busy = Counter(replica for (_, replica) in view.going)
    found = []
    for act in sorted(acts, key=lambda act: view.waiting.get(act.adapter, sys.maxsize)):
        if busy[act.replica] < AT_ONCE:
            busy[act.replica] += 1
            found.append(act)
    return found


# --- what is not as it should be


def _wrong(view: View, decision: placement.Decision, serving: Mapping[str, Replica], now: int) -> list[Wrong]:
    found = []
    short = {one.adapter: one for one in decision.short}
    for name, item in view.service.items.items():
        places = decision.placement.get(name, ())
        for replica in places:
            held = _held(serving[replica], name)
            if held is None or not item.is_it(held.digest, held.uri):
                found.append(_missing(view, item, replica, held))
        if name in short and not (item.least == 0 and not item.everywhere):
            one = short[name]
            message = f"{one.missing} of its copies have no place: {one.why}"
            # without any replica there is nothing to be done and nothing wrong with the adapter
            found.append(Wrong(name, "", "NoReplicas" if not serving else "NoRoom", message, passing=not serving))
    return found


def _missing(view: View, item: Item, replica: str, held: Held | None) -> Wrong:
    failure = view.failures.get((item.name, replica))
    if failure and failure.item == item:
        return Wrong(item.name, replica, _reason(failure.code), failure.message, passing=False)
    if view.going.get((item.name, replica)) in ("load", "replace"):
        return Wrong(item.name, replica, "Loading", "it is being loaded", passing=True)
    others = [
        one
        for (name, other), one in view.failures.items()
        if name == item.name and other != replica and one.item == item
    ]
    if held is not None and others:
        message = f"its change failed on another replica and waits: {others[0].message}"
        return Wrong(item.name, replica, "RolloutStopped", message, passing=False)
    return Wrong(
        item.name, replica, "Waiting", "its turn comes" if held is None else "its content changes later", passing=True
    )


def _reason(code: str) -> str:
    """A code of the sidecar as Kubernetes spells reasons."""
    return "".join(word.capitalize() for word in code.split("_"))


def _held(one: Replica, name: str) -> Held | None:
    return one.line.adapters.get(name) if one.line else None
