"""Two sides in, one Difference out: which services are new, gone or another, and what that does to pods, money and clients."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from aibrix_compile.artifact import Artifact, Object
from aibrix_compile.backends.objects import SOURCE_ANNOTATION
from aibrix_compile.diff import risks
from aibrix_compile.diff.difference import (
    AdapterChange,
    AdapterChanges,
    Change,
    Difference,
    Kind,
    Line,
    Objects,
    PoolChange,
    ServiceDifference,
)
from aibrix_compile.diff.leaves import Leaf, leaves, shown
from aibrix_compile.diff.order import order
from aibrix_compile.diff.prices import Size, size
from aibrix_compile.diff.restarts import Replaced, replaced, restart
from aibrix_compile.diff.sides import Side, State
from aibrix_compile.plan import AdapterItem, PoolPlan
from aibrix_compile.yamlio import Document, locate

_ADAPTERS = (".spec.adapters.items", ".spec.adapters.include")  # the plan says what became of them


def compare(base: Side, head: Side, only: Collection[str] = ()) -> Difference:
    """What changes from `base` to `head`, service by service in head's order, then those that only base has. `only` names
    the environments that the sides were compiled for; () = all."""
    found = []
    for key in {**head.services, **base.services}:
        before, after = base.services.get(key), head.services.get(key)
        sizes = (_size(base, key, before), _size(head, key, after))
        objects = _objects(before.artifacts if before else {}, after.artifacts if after else {})
        if objects.added or objects.removed or objects.changed or sizes[0] != sizes[1]:
            found.append(_service(*key, before, after, sizes, objects))
    return Difference(
        tuple(found),
        tuple(risks.of_environments(base, head, found)),
        tuple(_project(base.project, head.project, only)),
        _objects(_everything(base), _everything(head)),
    )


def _size(side: Side, key: tuple[str, str], state: State | None) -> Size:
    return size(state.plan, lambda pool: side.expected.get((*key, pool))) if state else Size()


def _everything(side: Side) -> dict[str, Artifact]:
    found = dict(side.others)
    for state in side.services.values():
        found |= state.artifacts
    return found


def _objects(before: Mapping[str, Artifact], after: Mapping[str, Artifact]) -> Objects:
    differ = [path for path in before.keys() & after.keys() if before[path].object != after[path].object]
    noted = [path for path in differ if _unnoted(before[path].object) == _unnoted(after[path].object)]
    return Objects(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(before.keys() - after.keys())),
        tuple(sorted(set(differ) - set(noted))),
        tuple(sorted(noted)),
    )


def _unnoted(value: Object) -> Object:
    metadata = value["metadata"]
    annotations = {k: v for k, v in metadata.get("annotations", {}).items() if k != SOURCE_ANNOTATION}
    return value | {"metadata": metadata | {"annotations": annotations}}


def _service(
    environment: str,
    name: str,
    before: State | None,
    after: State | None,
    sizes: tuple[Size, Size],
    objects: Objects,
) -> ServiceDifference:
    kind = Kind.NEW if before is None else Kind.GONE if after is None else Kind.CHANGED
    pools = tuple(_pools(before, after))
    spec: list[Leaf] = []
    rolled: dict[str, Replaced] = {}
    if before is not None and after is not None:
        spec = [one for one in leaves(before.document.value, after.document.value) if _is_told(one)]
        rolled = dict(_rolled(before, after, spec))
    found = ServiceDifference(
        environment=environment,
        name=name,
        kind=kind,
        before=sizes[0],
        after=sizes[1],
        changes=tuple(_changes(spec, rolled, after.document)) if after else (),
        restarts=tuple(
            restart(pool, rolled[pool.name], _workload(after, pool)[1], after.plan.decisions)
            for pool in (after.plan.pools if after else ())
            if after and pool.name in rolled
        ),
        pools=pools,
        adapters=_adapters(before, after),
        notes=tuple(_notes(before, after, pools)) if after else (),
        risks=(),
        order=(),
    )
    found = replace(found, risks=tuple(risks.of_service(found, before, after)))
    return replace(found, order=tuple(order(found, before, after, objects)))


def _is_told(leaf: Leaf) -> bool:
    """Not adapters and whole pools, which have lines of their own."""
    whole_pool = leaf.steps[:2] == (".spec", ".pools") and len(leaf.steps) == 3
    return not whole_pool and not "".join(leaf.steps).startswith(_ADAPTERS)


def _changes(spec: Sequence[Leaf], rolled: Mapping[str, Replaced], document: Document) -> Iterator[Change]:
    for index, leaf in enumerate(spec):
        pools = tuple(pool for pool, change in rolled.items() if index in change.causes)
        path = leaf.path.removeprefix("spec.")
        yield Change(path, *shown(leaf.before, leaf.after), _place(document, leaf), pools)


def _place(document: Document, leaf: Leaf) -> str:
    span = locate(document, leaf.new)
    return f"{span.file}:{span.line}"


def _project(before: Document | None, after: Document | None, only: Collection[str]) -> Iterator[Change]:
    if before is None or after is None:
        return
    wanted = {f"[{name}]" for name in only}
    for leaf in leaves(before.value, after.value):
        if not (wanted and leaf.steps[:2] == (".spec", ".environments")) or wanted & {*leaf.steps[2:3]}:
            path = leaf.path.removeprefix("spec.")
            yield Change(path, *shown(leaf.before, leaf.after), _place(after, leaf))


def _workload(state: State, pool: PoolPlan) -> tuple[tuple[str, str, str], Artifact]:
    """Kind, namespace and name of the object that makes the pool's pods, and the object."""
    kind = "Deployment" if pool.nodes == 1 else "LeaderWorkerSet"
    name = (kind, state.plan.namespace, pool.workload)
    for artifact in state.artifacts.values():
        if artifact.object["kind"] == kind and artifact.object["metadata"]["name"] == pool.workload:
            return name, artifact
    raise KeyError(pool.workload)


def _pools(before: State | None, after: State | None) -> Iterator[PoolChange]:
    """Pools whose workload comes, goes, or gives way to another object: another kind, or another namespace."""
    old = {pool.name: pool for pool in (before.plan.pools if before else ())}
    new = {pool.name: pool for pool in (after.plan.pools if after else ())}
    for name in {**new, **old}:
        names = [
            _workload(state, pools[name])[0]
            for state, pools in ((before, old), (after, new))
            if state and name in pools
        ]
        if len(names) == 2 and names[0] == names[1]:
            continue
        kind = Kind.CHANGED if len(names) == 2 else Kind.NEW if name in new else Kind.GONE
        yield PoolChange(name, kind, " ".join(names[-1][::2]), new[name].startup_seconds if name in new else 0)


def _rolled(before: State, after: State, spec: Sequence[Leaf]) -> Iterator[tuple[str, Replaced]]:
    old = {pool.name: _workload(before, pool) for pool in before.plan.pools}
    for pool in after.plan.pools:
        name, artifact = _workload(after, pool)
        if pool.name in old and old[pool.name][0] == name:
            change = replaced(old[pool.name][1], artifact, spec, pool)
            if change is not None:
                yield pool.name, change


def _adapters(before: State | None, after: State | None) -> AdapterChanges:
    old, new = _items(before), _items(after)
    changed = [(name, _what(old[name], new[name])) for name in new if name in old]
    return AdapterChanges(
        tuple(name for name in new if name not in old),
        tuple(name for name in old if name not in new),
        tuple(AdapterChange(name, what) for name, what in changed if what),
    )


def _items(state: State | None) -> dict[str, AdapterItem]:
    return {one.name: one for one in state.plan.adapters.items} if state and state.plan.adapters else {}


def _what(old: AdapterItem, new: AdapterItem) -> str:
    facts = (_facts(old), _facts(new))
    changed = [(key, shown(value, facts[1][key])) for key, value in facts[0].items() if value != facts[1][key]]
    return ", ".join(f"{key} {one} -> {other}" for key, (one, other) in changed)


def _facts(one: AdapterItem) -> dict[str, str | int | None]:
    """As the spec calls them; None for what it does not know."""
    replicas = "all" if one.everywhere else f"at least {one.least}" if one.least else "on demand"
    secret = f"{one.secret}/{one.key}" if one.secret else None
    facts = {"uri": one.uri, "digest": one.digest or None, "rank": one.rank or None, "replicas": replicas}
    return facts | {"priority": one.priority, "credentials": secret}


def _notes(before: State | None, after: State, pools: Sequence[PoolChange]) -> Iterator[Line]:
    made = {one.pool for one in pools}
    old = {pool.name: pool for pool in (before.plan.pools if before else ())}
    for pool in after.plan.pools:
        if pool.name in made:
            if pool.scaled:
                text = "pool {} starts with one pod, Kubernetes' default; its scaler takes the number from there"
                yield Line(text, (pool.name,))
            continue
        if pool.scaled and not old[pool.name].scaled:
            text = f"pool {{}} is handed to a scaler in two commits: its {old[pool.name].replicas} replicas stay in the manifest"
            yield Line(f"{text} until `build --finish-handover`", (pool.name,))
        if pool.rollout != old[pool.name].rollout:
            surge, unavailable = pool.rollout.max_surge, pool.rollout.max_unavailable
            reasons = [
                one.because for one in after.plan.decisions if one.value.startswith(f"pool {pool.name}: maxUnavailable")
            ]
            text = f"pool {{}} rolls with maxSurge {surge} and maxUnavailable {unavailable} from now on"
            yield Line(f"{text}: {{}}", (pool.name, reasons[0][0])) if reasons else Line(text, (pool.name,))
