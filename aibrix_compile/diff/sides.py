"""One state of a project as `compare` takes it: plans and objects, and of the spec what neither of them says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aibrix_compile.artifact import Artifact
from aibrix_compile.compiler import Compilation
from aibrix_compile.passes.draft import Draft
from aibrix_compile.plan import ArgoTarget, ServicePlan
from aibrix_compile.yamlio import Document


@dataclass(frozen=True, slots=True)
class PoolSite:
    """What the environment says of a pool's accelerator, under the name that the spec gives it. `quota` None is unknown."""

    accelerator: str
    quota: int | None
    spot: bool


@dataclass(frozen=True, slots=True)
class State:
    """One service in one environment. `document` is its merged spec, in which values are located; `artifacts` are by path,
    `sites` by pool."""

    plan: ServicePlan
    argocd: ArgoTarget | None
    artifacts: Mapping[str, Artifact]
    document: Document
    revision: str
    sites: Mapping[str, PoolSite]


@dataclass(frozen=True, slots=True)
class Side:
    """`services` are by environment and name, in the project's order; `others` are objects of no service. `expected` is how
    many replicas a simulation expects of (environment, service, pool); a price that needs a missing one is left open."""

    services: Mapping[tuple[str, str], State] = field(default_factory=dict)
    others: Mapping[str, Artifact] = field(default_factory=dict)
    project: Document | None = None
    expected: Mapping[tuple[str, str, str], float] = field(default_factory=dict)


def side(result: Compilation) -> Side:
    """What came out of a build in which nothing is wrong."""
    owned: dict[tuple[str, str], dict[str, Artifact]] = {}
    for artifact in result.artifacts:
        folder, source = artifact.path.partition("/")[0], artifact.sources.get(())
        owned.setdefault((folder, source.service if source else ""), {})[artifact.path] = artifact
    services, others = {}, {path: one for (_, name), some in owned.items() if not name for path, one in some.items()}
    for environment in result.plans:
        drafts = {draft.metadata.name: draft for draft in result.drafts[environment.name]}
        for plan in environment.services:
            key, draft = (environment.name, plan.name), drafts[plan.name]
            document = result.documents[environment.name, f"{draft.file}\0{plan.name}"]
            found = owned.get(key, {})
            services[key] = State(plan, environment.argocd, found, document, draft.revision, _sites(draft))
    return Side(services, others, result.workspace.project_document)


def _sites(draft: Draft) -> dict[str, PoolSite]:
    return {p.name: PoolSite(p.spec.accelerator, p.site.quota, p.spec.spot) for p in draft.pools}
