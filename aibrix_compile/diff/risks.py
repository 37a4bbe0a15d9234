"""What may hurt: one line each, with its reason. A risk is no mistake - `check` has those - but a reviewer should have seen it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from aibrix_compile.artifact import Object
from aibrix_compile.diff.difference import EnvironmentRisk, Kind, Line, Risk, ServiceDifference
from aibrix_compile.diff.prices import bounds, gpus
from aibrix_compile.diff.restarts import minutes
from aibrix_compile.diff.sides import Side, State
from aibrix_compile.plan import PoolPlan

KINDS = (
    "outage",
    "storage-deleted",
    "service-removed",
    "served-name-changed",
    "storage-refused",
    "capacity-gap",
    "fewer-replicas",
    "model-changed",
    "revision-changed",
    "engine-changed",
    "shorter-context",
    "adapter-removed",
    "adapter-changed",
    "scaler-removed",
    "pool-removed",
    "lower-maximum",
    "spot",
    "surge",
    "quota-full",
    "slo-loosened",
    "alert-removed",
    "disruption-budget-removed",
)
"""Worst first: the order in which risks are said."""
_NAMED = 3  # names that a line spells out


def of_service(found: ServiceDifference, before: State | None, after: State | None) -> Iterator[Risk]:
    """The risks of one service; a new one has none, for nobody relies on it."""
    if before is None:
        return
    yield from _storage(before, after)
    if after is None:
        line = Line("the service is removed: clients of {} get 404", (before.plan.served_name,))
        yield Risk("service-removed", line)
        return
    yield from _capacity(found, before)
    yield from _answers(before, after)
    yield from _promises(before, after)
    yield from _pools(found, before, after)
    yield from _adapters(found, before, after)


def _list(text: str, names: Sequence[str]) -> Line:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shown = tuple(names[:_NAMED])
    return Line(text.format(", ".join("{}" for _ in shown)) + more, shown)


def _capacity(found: ServiceDifference, before: State) -> Iterator[Risk]:
    low, high = found.before.replicas
    least, most = found.after.replicas
    if least < low:
        yield Risk("fewer-replicas", Line(f"at least {least} replica{'s' * (least != 1)} instead of {low}"))
    if most < high and (least, most) != (low, high) and (least != most or low != high):
        yield Risk("lower-maximum", Line(f"at most {most} replica{'s' * (most != 1)} instead of {high}"))
    left = {one.pool: one.left for one in found.restarts} | {one.pool: 0 for one in found.pools}
    fewest = {pool.name: bounds(pool)[0] for pool in before.plan.pools}
    stays = sum(min(count, left.get(pool, count)) for pool, count in fewest.items())
    starts = [one.seconds for one in found.pools if one.kind is not Kind.GONE]
    if low and not stays:
        wait = min([*starts, *(one.seconds[0] for one in found.restarts)], default=0)
        until = f" until a new one has started, {minutes(wait, wait)}" if wait else ""
        yield Risk("outage", Line(f"no replica answers{until}"))
    elif starts and stays < low and any(one.kind is not Kind.NEW for one in found.pools):
        wait = max(starts)
        text = f"{stays} of {low} replicas answer until new ones have started, {minutes(wait, wait)}: Argo CD deletes first"
        yield Risk("capacity-gap", Line(text))


def _storage(before: State, after: State | None) -> Iterator[Risk]:
    new = _objects(after, "PersistentVolumeClaim")
    for name, old in _objects(before, "PersistentVolumeClaim").items():
        if name not in new:
            text = "the claim {} is deleted with the weights in it, once somebody confirms it in Argo CD"
            yield Risk("storage-deleted", Line(text, (name,)))
        elif refused := [
            field for field in ("storageClassName", "accessModes") if old.get(field) != new[name].get(field)
        ]:
            text = f"Kubernetes refuses another {' or '.join(refused)} of the claim {{}}: the sync fails; create one of another name"
            yield Risk("storage-refused", Line(text, (name,)))
    kept, wanted = before.plan.storage, after.plan.storage if after else None
    if kept and wanted and kept.claim == wanted.claim and 0 < wanted.size < kept.size:
        text = "Kubernetes refuses to make the claim {} smaller: the sync fails"
        yield Risk("storage-refused", Line(text, (wanted.claim,)))


def _objects(state: State | None, kind: str) -> dict[str, Object]:
    """The specs of a service's objects of one kind, by name."""
    values = [one.object for one in (state.artifacts.values() if state else ())]
    return {value["metadata"]["name"]: value["spec"] for value in values if value["kind"] == kind}


def _answers(before: State, after: State) -> Iterator[Risk]:
    """What clients get: another name, another model, another length."""
    old, new = before.plan, after.plan
    if old.served_name != new.served_name:
        text = "clients that ask for {} get 404; the model is called {} now"
        yield Risk("served-name-changed", Line(text, (old.served_name, new.served_name)))
    if old.uri != new.uri:
        yield Risk("model-changed", Line("another model answers: {} instead of {}", (new.uri, old.uri)))
    elif before.revision != after.revision:
        text = "other weights answer: revision {} instead of {}"
        yield Risk("revision-changed", Line(text, (after.revision, before.revision)))
    if (old.engine, old.engine_version) != (new.engine, new.engine_version):
        names = (f"{new.engine} {new.engine_version}", f"{old.engine} {old.engine_version}")
        yield Risk("engine-changed", Line("engine {} instead of {}: speed and answers may differ", names))
    longest, longer = _length(new.pools), _length(old.pools)
    if longest < longer:
        text = f"requests of more than {longest} tokens are refused, {longer} were allowed"
        yield Risk("shorter-context", Line(text))


def _length(pools: Sequence[PoolPlan]) -> int:
    return min((pool.sizing.max_model_len for pool in pools), default=0)


def _adapters(found: ServiceDifference, before: State, after: State) -> Iterator[Risk]:
    if gone := found.adapters.removed:
        yield Risk("adapter-removed", _list("adapters are removed, and requests for them fail: {}", gone))
    old, new = _weights(before), _weights(after)
    if other := [name for name, weights in new.items() if old.get(name, weights) != weights]:
        yield Risk("adapter-changed", _list("adapters have other weights, so their answers change: {}", other))


def _weights(state: State) -> dict[str, tuple[str, str]]:
    return {one.name: (one.uri, one.digest) for one in (state.plan.adapters.items if state.plan.adapters else ())}


def _promises(before: State, after: State) -> Iterator[Risk]:
    """Objectives and alerts."""
    new = {(one.metric, one.percentile): one.seconds for one in after.plan.objectives}
    for one in before.plan.objectives:
        name, now = f"{one.metric} p{one.percentile * 100:g}", new.get((one.metric, one.percentile))
        if now is None:
            yield Risk("slo-loosened", Line(f"the objective {name} of {one.seconds:g} s is dropped"))
        elif now > one.seconds:
            yield Risk("slo-loosened", Line(f"the objective {name} is {now:g} s instead of {one.seconds:g} s"))
    alerts = _alerts(after)
    if gone := [name for name in _alerts(before) if name not in alerts]:
        yield Risk("alert-removed", _list("alerts are removed: {}", gone))


def _alerts(state: State) -> list[str]:
    specs = _objects(state, "PrometheusRule").values()
    found = [rule["alert"] for spec in specs for group in spec["groups"] for rule in group["rules"] if "alert" in rule]
    return list(dict.fromkeys(found))


def _pools(found: ServiceDifference, before: State, after: State) -> Iterator[Risk]:
    old = {pool.name: pool for pool in before.plan.pools}
    for pool in after.plan.pools:
        was = old.get(pool.name)
        if after.sites[pool.name].spot and not (was and before.sites[pool.name].spot):
            yield Risk("spot", Line("pool {} runs on interruptible nodes", (pool.name,)))
        if was is None:
            continue
        if was.disruption_budget and not pool.disruption_budget:
            text = "pool {} has no PodDisruptionBudget any more: a drained node takes its replica away at once"
            yield Risk("disruption-budget-removed", Line(text, (pool.name,)))
        if was.scaled and not pool.scaled:
            text = f"Git sets {pool.replicas} replicas of pool {{}} at once, whatever its scaler has made of them (up to {bounds(was)[1]})"
            yield Risk("scaler-removed", Line(text, (pool.name,)))
    for one in found.pools:
        if one.kind is Kind.GONE:
            yield Risk("pool-removed", Line("pool {} is removed", (one.pool,)))


def of_environments(base: Side, head: Side, found: Sequence[ServiceDifference]) -> Iterator[EnvironmentRisk]:
    """What only all services together run into: the quota of an accelerator."""
    rolling = {(one.environment, one.name, restart.pool): restart for one in found for restart in one.restarts}
    used, before = _used(head), _used(base)
    for (environment, card), (taken, quota, least) in used.items():
        if quota is not None and quota - taken < least:
            old_taken, old_quota, old_least = before.get((environment, card), (0, None, least))
            if old_quota is None or old_quota - old_taken >= old_least:
                text = f"{taken} of {quota} {{}} GPUs may be in use: no room for one more replica, so a restart takes one away first"
                yield EnvironmentRisk(environment, Risk("quota-full", Line(text, (card,))))
        extra = Counter[str]()
        for (place, service, pool_name), restart in rolling.items():
            state = head.services[place, service]
            if (place, state.sites[pool_name].accelerator) == (environment, card) and restart.seconds[1]:
                (pool,) = (one for one in state.plan.pools if one.name == pool_name)
                extra[service] += restart.surge * gpus(pool)
        need = extra.total()
        if need and (quota is None or need > quota - taken):
            room = "the quota is unknown" if quota is None else f"the quota leaves {quota - taken}"
            text = f"restarts need {need} more {{}} GPU{'s' * (need != 1)} at once, {room}: pods that find none wait"
            yield EnvironmentRisk(environment, Risk("surge", Line(text, (card,))))


def _used(side: Side) -> Mapping[tuple[str, str], tuple[int, int | None, int]]:
    """By environment and accelerator: GPUs at most, the quota, and what the smallest replica takes."""
    found: dict[tuple[str, str], tuple[int, int | None, int]] = {}
    for (environment, _), state in side.services.items():
        for pool in state.plan.pools:
            if each := gpus(pool):
                site = state.sites[pool.name]
                taken, _, least = found.get((environment, site.accelerator), (0, None, each))
                entry = (taken + each * bounds(pool)[1], site.quota, min(least, each))
                found[environment, site.accelerator] = entry
    return found
