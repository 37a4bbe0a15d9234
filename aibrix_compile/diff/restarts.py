"""Which pods are replaced, by which line of the spec, in which steps and for how long.

What counts is what the controllers count: the pod template of a Deployment, the whole leaderWorkerTemplate of a
LeaderWorkerSet, groups' size included. The backends say which spec path made which field of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aibrix_compile.artifact import Artifact
from aibrix_compile.diagnostics import Path
from aibrix_compile.diff.difference import Field, Restart
from aibrix_compile.diff.leaves import Leaf, leaves, shown
from aibrix_compile.diff.prices import bounds
from aibrix_compile.plan import Decision, PoolPlan

TEMPLATES: dict[str, Path] = {
    "Deployment": ("spec", "template"),
    "LeaderWorkerSet": ("spec", "leaderWorkerTemplate"),
}
_TELLING = 8  # characters of a value that is not found in a field by chance
_UNSAID = {".spec", ".containers", "[engine]", ".leaderTemplate", ".workerTemplate", ".args", ".metadata"}


_HARMLESS = re.compile(
    r"\.spec\.(scaling|slo|monitoring|rollout|access|workload|routing(?!\.timeout)|adapters\.whenMissing|model\.loading\.cache\.create"
    r"|pools\[[^]]*\]\.(replicas|serviceAccount))\b"
)
"""What no pod is made from."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """What is another in the template of one workload. `causes` are indices of the spec's leaves behind it; `unsaid` are the
    leaves that none of them is known to have made."""

    leaves: tuple[Leaf, ...]
    unsaid: tuple[Leaf, ...]
    causes: frozenset[int]


def replaced(before: Artifact, after: Artifact, spec: Sequence[Leaf], pool: PoolPlan) -> Replaced | None:
    """None where the pods stay as they are."""
    start = TEMPLATES[after.object["kind"]]
    found = tuple(leaves(_at(before, start), _at(after, start), old=start, new=start))
    if not found:
        return None
    direct = [(leaf, tuple(_causes(leaf, before, after, spec))) for leaf in found]
    unsaid = tuple(leaf for leaf, causes in direct if not causes)
    causes = {cause for _, some in direct for cause in some}
    if unsaid:  # of what was changed, all that a pod is made from may have had a part in it
        own = f".spec.pools[{pool.name}]"
        causes |= {i for i, one in enumerate(spec) if _may_touch("".join(one.steps), own)}
    return Replaced(found, unsaid, frozenset(causes))


def _may_touch(path: str, own: str) -> bool:
    return not _HARMLESS.match(path) and (not path.startswith(".spec.pools") or path.startswith(own))


def _at(artifact: Artifact, path: Path) -> object:
    value = artifact.object
    for step in path:
        value = value[step]  # type: ignore[index]
    return value


def _causes(leaf: Leaf, before: Artifact, after: Artifact, spec: Sequence[Leaf]) -> Iterator[int]:
    old = _source(before, leaf.old) if leaf.before is not None else None
    new = _source(after, leaf.new) if leaf.after is not None else None
    for index, change in enumerate(spec):
        if (old and _related(old, change.old)) or (new and _related(new, change.new)) or _carries(leaf, change):
            yield index


def _carries(leaf: Leaf, change: Leaf) -> bool:
    """Whether the field has the changed value in it, as the path of weights has the revision."""
    pairs = ((change.before, leaf.before), (change.after, leaf.after))
    return all(isinstance(part, str) and len(part) >= _TELLING and part in str(whole) for part, whole in pairs)


def _source(artifact: Artifact, path: Path) -> Path | None:
    """The spec path behind an object's field; None where nothing nearer than the whole workload is known."""
    source = artifact.source(path)
    return source.path if source is not None and source != artifact.sources.get(()) else None


def _related(one: Path, other: Path) -> bool:
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def restart(pool: PoolPlan, change: Replaced, after: Artifact, decisions: Sequence[Decision]) -> Restart:
    """How the pool's pods are replaced. A wave takes as long as a replica needs to start - with a new image, or weights to
    fetch first, as long as the plan gives it - and the last one also drains: waves x start + drain."""
    low, high = bounds(pool)
    surge, unavailable = _step(pool, low)
    pulls = any(leaf.steps[-1] == ".image" for leaf in change.leaves)
    wave = pool.progress_deadline_seconds if pulls or pool.prefetch else pool.startup_seconds
    return Restart(
        pool.name,
        tuple(_fields(change, after, decisions)),
        pool.nodes,
        surge,
        unavailable,
        max(0, low - unavailable),
        (_seconds(pool, low, wave), _seconds(pool, high, wave)),
    )


def _seconds(pool: PoolPlan, replicas: int, wave: int) -> int:
    surge, unavailable = _step(pool, replicas)
    return math.ceil(replicas / (surge + unavailable)) * wave + pool.drain_seconds if replicas else 0


def _step(pool: PoolPlan, replicas: int) -> tuple[int, int]:
    """Replicas above and below their number meanwhile: shares round up and down, and one of the two is never zero."""
    surge, unavailable = pool.rollout.max_surge, pool.rollout.max_unavailable
    more = surge if isinstance(surge, int) else -(-int(surge.removesuffix("%")) * replicas // 100)
    fewer = unavailable if isinstance(unavailable, int) else int(unavailable.removesuffix("%")) * replicas // 100
    return (more, fewer) if more or fewer else (0, 1)


def minutes(low: int, high: int) -> str:
    """An estimate in seconds as people say it: whole minutes, up."""
    first, last = -(-low // 60), -(-high // 60)
    return f"~{last} min" if first == last else f"~{first} to {last} min" if first else f"up to ~{last} min"


def _fields(change: Replaced, after: Artifact, decisions: Sequence[Decision]) -> Iterator[Field]:
    """What no line of the service explains; leader and workers of a group say it once."""
    said: set[tuple[str, str, str]] = set()
    for leaf in change.unsaid:
        name = "".join(step for step in leaf.steps if step not in _UNSAID).lstrip(".")
        text = (name, *shown(leaf.before, leaf.after))
        if text not in said:
            said.add(text)
            source = _source(after, leaf.new)
            yield Field(*text, _because(source, leaf.after, decisions))


def _because(source: Path | None, value: object, decisions: Sequence[Decision]) -> str:
    """Why the plan has this value, if it decided it and says so."""
    for one in decisions:
        if one.value == value or (source == one.path and one.value in str(value)):
            return "; ".join(one.because)
    return ""
