"""What is a matter between services: one environment's names, GPUs and references, and surges that its quota allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from aibrix_compile.diagnostics import Path, Problem, Severity
from aibrix_compile.passes.draft import Draft, PoolDraft
from aibrix_compile.plan import Rollout
from aibrix_compile.spec.decode import sound
from aibrix_compile.spec.project import Project

KUBERNETES = ("1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")


class Finding(NamedTuple):
    """A problem in the document of `draft`; `others` point into documents of other services."""

    draft: Draft
    problem: Problem
    others: tuple[tuple[Draft, Path, str], ...] = ()


def project(spec: Project) -> Iterator[Problem]:
    """What the Project itself must get right for any service to be compiled."""
    for name, hint in (("services", "[services/*.yaml]"), ("environments", "[{name: prod, namespace: llm}]")):
        if not getattr(spec.spec, name):
            yield Problem(
                "AC102", ("spec", name), f"a project without {name} compiles to nothing", f"write {name}: {hint}"
            )
    first: dict[str, int] = {}
    for index, environment in enumerate(spec.spec.environments):
        path: Path = ("spec", "environments", index)
        if environment.name in first:
            other: Path = ("spec", "environments", first[environment.name], "name")
            message = f'two environments are named "{environment.name}": they would write to one folder'
            yield Problem("AC221", (*path, "name"), message, "rename one", related=((other, "the other one"),))
        first.setdefault(environment.name, index)
        if environment.kubernetes not in KUBERNETES:
            message = f"Kubernetes {environment.kubernetes} is not among the versions that are compiled for"
            yield Problem("AC504", (*path, "kubernetes"), message, f"write one of {', '.join(KUBERNETES)} in quotes")
        if (argocd := environment.argocd) is not None:
            here = (*path, "argocd")
            if (argocd.destination.server is None) == (argocd.destination.name is None):
                yield Problem(
                    "AC222",
                    (*here, "destination"),
                    "a destination is a server or a cluster's name, one of both",
                    "keep one of server and name",
                )
            if argocd.path.startswith("/") or ".." in argocd.path.split("/"):
                yield Problem(
                    "AC124",
                    (*here, "path"),
                    f'"{argocd.path}" is no folder inside the repository',
                    "write a relative path without ..",
                )


def names(drafts: Sequence[Draft]) -> Iterator[Finding]:
    """Services have names of their own and answer to model names of their own; a canary shares its service's."""
    by_name: dict[str, Draft] = {}
    by_served: dict[str, Draft] = {}
    partners = {(d.metadata.name, other) for d in drafts for other in _partners(d)}
    for draft in drafts:
        name, served = draft.metadata.name, draft.served_name
        if (other := by_name.setdefault(name, draft)) is not draft:
            problem = Problem("AC201", ("metadata", "name"), f'two services are named "{name}"', "rename one")
            yield Finding(draft, problem, ((other, ("metadata", "name"), "the other one"),))
            continue
        if not served or not sound(draft.invalid, ("spec", "model")):
            continue
        other = by_served.setdefault(served, draft)
        pair = (name, other.metadata.name)
        if other is not draft and pair not in partners and pair[::-1] not in partners:
            hint = "set model.servedName of one, or make one the canary of the other"
            problem = Problem("AC202", ("spec", "model", "servedName"), f'two services answer to "{served}"', hint)
            yield Finding(draft, problem, ((other, ("spec", "model", "servedName"), "the other one"),))
    yield from _objects(drafts)
    for draft in drafts:
        for path, wanted in _references(draft):
            if wanted not in by_name:
                yield Finding(
                    draft,
                    Problem(
                        "AC225",
                        path,
                        f'there is no service "{wanted}" in this environment',
                        f"services: {', '.join(sorted(by_name))}",
                    ),
                )


def _objects(drafts: Sequence[Draft]) -> Iterator[Finding]:
    """Services of different names whose objects would still share one: `a` with pool `b-c`, `a-b` with pool `c`."""
    made: dict[tuple[str, str], tuple[Draft, Path]] = {}
    for draft in drafts:
        name: Path = ("metadata", "name")
        objects = [("Service", draft.metadata.name, name), ("Service", f"{draft.metadata.name}-headless", name)]
        objects += [("Deployment", pool.workload, (*pool.path, "name")) for pool in draft.pools if pool.workload]
        for kind, called, path in objects:
            other, where = made.setdefault((kind, called), (draft, path))
            if other.metadata.name != draft.metadata.name:
                problem = Problem(
                    "AC201", path, f'two services would make a {kind} "{called}"', "rename one service or pool"
                )
                yield Finding(draft, problem, ((other, where, "the other one"),))


def tenants(drafts: Sequence[Draft]) -> Iterator[Finding]:
    """Tenants are those of the environment's gateway; without a gateway none are known, and nothing is said."""
    for draft in drafts:
        gateway, access = draft.site.environment.gateway, draft.spec.access
        if gateway is None or access is None:
            continue
        known = [tenant.name for tenant in gateway.tenants]
        for index, tenant in enumerate(access.tenants):
            if tenant.name not in known:
                hint = f"tenants: {', '.join(known) or 'none'}"
                path: Path = ("spec", "access", "tenants", index, "name")
                yield Finding(draft, Problem("AC225", path, f'the environment has no tenant "{tenant.name}"', hint))


def gpus(drafts: Sequence[Draft]) -> Iterator[Finding]:
    """Replicas within quota and policy; surges within what the quota leaves."""
    used: Counter[str] = Counter()
    asked: dict[str, list[str]] = {}
    total = 0
    pools = [
        (draft, pool)
        for draft in drafts
        for pool in draft.pools
        if sound(draft.invalid, (*pool.path, "replicas")) and pool.accelerator
    ]
    for draft, pool in pools:
        need, name = pool.gpus * pool.replicas, pool.spec.accelerator
        before, before_total = used[name], total
        used[name] += need
        total += need
        asked.setdefault(name, []).append(f"{pool.workload or pool.name} {need}")
        quota, limit = pool.site.quota, draft.site.environment.policy.maxGPUs
        path = (*pool.path, "replicas")
        if quota is not None and before <= quota < used[name]:
            message = f"{used[name]} {name} GPUs are asked for ({', '.join(asked[name][-4:])}), the quota of {draft.site.environment.name} is {quota}"
            yield Finding(
                draft, Problem("AC304", path, message, "use fewer replicas, or raise the quota in aibrix.yaml")
            )
        if limit is not None and before_total <= limit < total:
            message = f"{total} GPUs are asked for in all, the policy of {draft.site.environment.name} allows {limit}"
            yield Finding(
                draft,
                Problem("AC404", path, message, "use fewer replicas; the limit is policy.maxGPUs of the environment"),
            )
    for draft, pool in pools:
        yield from _rollout(draft, pool, used[pool.spec.accelerator])


def _rollout(draft: Draft, pool: PoolDraft, used: int) -> Iterator[Finding]:
    wanted, quota = draft.spec.rollout, pool.site.quota
    room = None if quota is None else quota - used
    proven = pool.gpus == 0 or (room is not None and room >= pool.gpus)
    surge = wanted.maxSurge
    unavailable = wanted.maxUnavailable
    asks = surge not in (None, 0, "0%") or (surge is None and unavailable in (0, "0%"))
    if asks and room is not None and not proven:
        message = (
            f"a surge needs {pool.gpus} {pool.spec.accelerator} GPUs beside the {used} in use; the quota is {quota}"
        )
        path: Path = ("spec", "rollout", "maxSurge" if surge is not None else "maxUnavailable")
        yield Finding(
            draft,
            Problem(
                "AC305",
                path,
                message,
                "write maxUnavailable: 1, maxSurge: 0, or raise the quota",
                severity=Severity.ERROR,
            ),
        )
    if surge is None:
        surge = 1 if proven or unavailable in (0, "0%") else 0
    if pool.nodes > 1 and unavailable in (0, "0%"):
        message = f"pool {pool.name} has {pool.nodes} nodes a replica, and a LeaderWorkerSet with maxUnavailable 0 never starts"
        hint = "write maxUnavailable: 1; its leaders are a StatefulSet, which Kubernetes refuses with 0 since 1.35"
        yield Finding(draft, Problem("AC508", ("spec", "rollout", "maxUnavailable"), message, hint, fix="1"))
    if unavailable is None:
        unavailable = 0 if surge not in (0, "0%") and pool.nodes == 1 else 1
    pool.rollout = Rollout(unavailable, surge)
    if wanted.maxSurge is None or wanted.maxUnavailable is None:
        reason = "the quota is unknown" if room is None else f"the quota leaves {room} {pool.spec.accelerator} GPUs"
        if pool.gpus == 0:
            reason = "no GPU is needed"
        draft.decide(
            ("spec", "rollout"),
            f"pool {pool.name}: maxUnavailable {unavailable}, maxSurge {surge}",
            f"{reason}; one more replica needs {pool.gpus}",
        )


def _partners(draft: Draft) -> list[str]:
    return [name for _, name in _references(draft)]


def _references(draft: Draft) -> list[tuple[Path, str]]:
    routing = draft.spec.routing
    found: list[tuple[Path, str]] = []
    if routing.canary is not None:
        found.append((("spec", "routing", "canary", "service"), routing.canary.service))
    if routing.spillTo is not None:
        found.append((("spec", "routing", "spillTo"), routing.spillTo))
    return found
