"""The driver: documents in, plans, artifacts and diagnostics out. It alone knows both spec paths and lines.

load -> (for each environment and service) overlay -> decode -> passes -> fleet -> plan -> backends -> closure
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from aibrix_compile import ignores, passes
from aibrix_compile.artifact import Artifact, External, Source
from aibrix_compile.backends import (
    adapters,
    argocd,
    dashboards,
    kubernetes,
    monitoring,
    network,
    scaling,
    storage,
)
from aibrix_compile.closure import unresolved
from aibrix_compile.diagnostics import Diagnostic, Fix, Path, Problem, Related, Severity, Span, UsageError
from aibrix_compile.fixes import replaceable
from aibrix_compile.loading import Workspace
from aibrix_compile.passes import fleet, images
from aibrix_compile.passes import gateway as front
from aibrix_compile.passes.draft import Draft, Site
from aibrix_compile.plan import ArgoTarget, EnvironmentPlan, GatewayPlan, ServicePlan
from aibrix_compile.spec.decode import decode
from aibrix_compile.spec.modelservice import ModelService
from aibrix_compile.spec.project import Environment, Images
from aibrix_compile.yamlio import Document, Map, Seq, SourceFile, locate

BACKENDS = (kubernetes, storage, scaling, adapters, monitoring, dashboards)
TOGETHER = (network, argocd)
"""Backends of one service, and of all services of an environment. The gateway is made only when all of them are there."""

Progress = Callable[[int, int], None]
"""Called with services done and services in all."""


@dataclass(slots=True)
class Compilation:
    """What came out. `drafts` and `documents` are there for services with mistakes too; `explain` reads them."""

    workspace: Workspace
    plans: list[EnvironmentPlan] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    drafts: dict[str, list[Draft]] = field(default_factory=dict)
    documents: dict[tuple[str, str], Document] = field(default_factory=dict)
    _found: dict[tuple[str, Span], tuple[Diagnostic, list[str]]] = field(default_factory=dict)

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """Each finding once, in file order, with the environments in which it was seen."""
        return sorted(
            (dataclasses.replace(d, environments=tuple(names)) for d, names in self._found.values()),
            key=lambda d: (d.span, d.code, d.message),
        )

    @property
    def failed(self) -> bool:
        return any(d.severity is Severity.ERROR for d, _ in self._found.values())

    def add(self, diagnostic: Diagnostic, environment: str = "") -> None:
        _, names = self._found.setdefault((diagnostic.code, diagnostic.span), (diagnostic, []))
        if environment and environment not in names and self.workspace.project is not None:
            names.append(environment)

    def add_problem(
        self, problem: Problem, document: Document, environment: str = "", others: Sequence[Related] = ()
    ) -> None:
        span = locate(document, problem.path, problem.at_key)
        related = tuple(Related(locate(document, path), message) for path, message in problem.related)
        whole = problem.fix is not None and replaceable(
            self.workspace.sources.get(span.file, ""), span, _written(document, problem)
        )
        fix = Fix(span, problem.fix) if whole and problem.fix is not None else None
        shown = tuple(r for r in (*related, *others) if r.span != span)
        self.add(
            Diagnostic(problem.code, problem.severity, problem.message, span, problem.hint, fix, shown), environment
        )


def compile_workspace(
    workspace: Workspace, *, build: bool, only: Collection[str] = (), progress: Progress = lambda done, total: None
) -> Compilation:
    """Compile what was loaded. `build` also refuses what no backend compiles yet, and makes artifacts when nothing is wrong.

    `only` names the environments (all by default); UsageError for a name that does not exist.
    """
    names = [environment.name for environment in workspace.environments]
    if unknown := sorted(set(only) - set(names)):
        raise UsageError(f"there is no environment {unknown[0]}; environments: {', '.join(names) or 'none'}")
    result = Compilation(workspace)
    named = {environment.name: environment for environment in reversed(workspace.environments)}  # a second one is AC221
    chosen = [e for e in workspace.environments if named[e.name] is e and (not only or e.name in only)]
    total, done = len(chosen) * len(workspace.services), 0
    if workspace.project is not None and workspace.project_document is not None:
        for problem in fleet.project(workspace.project):
            result.add_problem(problem, workspace.project_document)
    for environment in chosen:
        for draft in _drafts(workspace, environment, build, result):
            result.drafts.setdefault(environment.name, []).append(draft)
            done += 1
            if done % 50 == 0 or done == total:
                progress(done, total)
        drafts = result.drafts.get(environment.name, [])
        for finding in (*fleet.names(drafts), *fleet.tenants(drafts), *fleet.gpus(drafts), *front.services(drafts)):
            others = [
                Related(locate(_document(result, draft), path), message) for draft, path, message in finding.others
            ]
            finding.draft.invalid.add(finding.problem.path)
            result.add_problem(finding.problem, _document(result, finding.draft), environment.name, others)
        if (parts := _parts(workspace, environment)) is not None and workspace.project_document is not None:
            for problem in front.project(parts, drafts, build):
                result.add_problem(problem, workspace.project_document, environment.name)
        if workspace.project is not None and workspace.project_document is not None:
            for problem in images.project(environment.policy, workspace.project.spec.images, workspace.lock):
                result.add_problem(problem, workspace.project_document, environment.name)
    for problem, document in workspace.problems:
        result.add_problem(problem, document)
    for diagnostic in workspace.diagnostics:
        result.add(diagnostic)
    _ignore(result, complete=not only and not result.failed)  # whatever comes after here is an error
    if result.failed:
        _keep_selected(result)
        if result.failed:
            return result
    selected = workspace.selected  # another service's mistakes are its own; it has no plan then
    for environment in chosen:
        drafts = result.drafts.get(environment.name, [])
        services = [passes.finish(draft) for draft in drafts if selected is None or draft.file in selected]
        parts = _parts(workspace, environment)
        result.plans.append(_plan(environment, services, front.plan(parts, drafts) if parts else None))
    if build:
        for plan in result.plans:
            _emit(plan, result)
    _keep_selected(result)
    return result


def _drafts(workspace: Workspace, environment: Environment, build: bool, result: Compilation) -> Iterator[Draft]:
    written = workspace.project.spec.images if workspace.project else Images()
    known = (images.resolved(one or "", "", workspace.lock)[0] for one in (written.controllers, written.runtime))
    site = Site(environment, written.mirror or "", workspace.lock, workspace.project is not None, build, *known)
    for service in workspace.services:
        document, unread = workspace.merged(service, environment.name)
        decoded = decode(ModelService, document.value)
        decoded.invalid |= unread
        for problem in decoded.problems:
            result.add_problem(problem, document, environment.name)
        if decoded.model is None:
            continue
        draft = passes.draft(decoded.model, site, service.source.name, decoded.invalid)
        result.documents.setdefault((environment.name, _key(draft)), document)
        for problem in passes.run(passes.PASSES + (passes.TARGET_PASSES if build else ()), draft):
            result.add_problem(problem, document, environment.name)
        yield draft


def _key(draft: Draft) -> str:
    return f"{draft.file}\0{draft.metadata.name}"


def _document(result: Compilation, draft: Draft) -> Document:
    return result.documents[draft.site.environment.name, _key(draft)]


def _parts(workspace: Workspace, environment: Environment) -> front.Parts | None:
    """The environment's gateway, and where it stands in the Project."""
    if workspace.project is None or environment.gateway is None:
        return None
    index = next(i for i, one in enumerate(workspace.project.spec.environments) if one is environment)
    path: Path = ("spec", "environments", index, "gateway")
    return front.Parts(path, environment, environment.gateway, workspace.project.spec.images, workspace.lock)


def _plan(environment: Environment, services: Sequence[ServicePlan], gateway: GatewayPlan | None) -> EnvironmentPlan:
    target = None
    if (wanted := environment.argocd) is not None:
        to = wanted.destination
        target = ArgoTarget(
            wanted.repoURL,
            wanted.targetRevision,
            wanted.path,
            wanted.project,
            wanted.namespace,
            to.server or "",
            to.name or "",
        )
    name, namespace, kubernetes = environment.name, environment.namespace, environment.kubernetes
    return EnvironmentPlan(name, namespace, kubernetes, gateway, target, tuple(services))


def _emit(plan: EnvironmentPlan, result: Compilation) -> None:
    artifacts = [one for service in plan.services for backend in BACKENDS for one in backend.emit(service)]
    artifacts += [one for backend in TOGETHER for one in backend.emit(plan)]
    externals: list[External] = [
        one
        for service in plan.services
        for backend in (kubernetes, storage, adapters)
        for one in backend.externals(service)
    ]
    fits = True
    if plan.gateway is not None and result.workspace.selected is None:
        from aibrix_compile.backends import gateway  # twelve modules, which a build without one does not load

        made = gateway.emit(plan)
        artifacts += made
        externals += gateway.externals(plan)
        for name, size in gateway.sizes(made):
            fits = False
            message = f"ConfigMap {name} would have {size} bytes, and Kubernetes takes {gateway.LARGEST} at most"
            hint = "divide the services among two environments with a gateway each; most of it are names of adapters"
            document = result.workspace.project_document
            assert document is not None
            result.add_problem(Problem("AC309", plan.gateway.path, message, hint), document, plan.name)
    result.artifacts += artifacts
    if not fits:
        return  # the closure would say it again, of the object
    for dangling in unresolved(artifacts, externals):
        source = dangling.artifact.source(dangling.path)
        document, path = _origin(result, plan.name, source)
        result.add_problem(Problem("AC506", path, dangling.message, dangling.hint), document, plan.name)


def _origin(result: Compilation, environment: str, source: Source | None) -> tuple[Document, Path]:
    for draft in result.drafts[environment]:
        if source is not None and draft.metadata.name == source.service:
            return _document(result, draft), source.path
    assert result.workspace.project_document is not None
    return result.workspace.project_document, source.path if source is not None else ()


def _written(document: Document, problem: Problem) -> object:
    """The key or scalar that a problem is about; of a short form, the scalar that stands for its field."""
    if problem.at_key:
        return problem.path[-1] if problem.path else None
    node = document.value
    for step in problem.path:
        if isinstance(node, Map | Seq):
            inside = step in node if isinstance(node, Map) else isinstance(step, int) and step < len(node)
            node = node[step] if inside else None  # type: ignore[index]
    return node


def _ignore(result: Compilation, complete: bool) -> None:
    """Take out what comments of the project's files waive, and say what is wrong with those comments."""
    workspace = result.workspace
    mentioned = [name for name, text in workspace.sources.items() if ignores.mentioned(text)]
    if not mentioned:
        return
    documents = [*workspace.services, *(one for some in workspace.overlays.values() for one in some)]
    documents += [workspace.project_document] if workspace.project_document else []
    ours = {document.source.name for document in documents}
    ours = ours.union(*(_files(document.value) for document in result.documents.values()))
    sources = [SourceFile(name, workspace.sources[name]) for name in mentioned if name in ours]
    waived, said = ignores.judge([d for d, _ in result._found.values()], sources, complete)
    for key in waived:
        del result._found[key]
    for diagnostic in said:
        result.add(diagnostic)


def _keep_selected(result: Compilation) -> None:
    """The whole project was compiled, because names and quotas are shared; what was asked for is shown."""
    selected = result.workspace.selected
    if selected is None:
        return
    kept = {draft.metadata.name for drafts in result.drafts.values() for draft in drafts if draft.file in selected}
    files = set(selected)
    for (_, key), document in result.documents.items():
        if key.partition("\0")[0] in selected:
            files |= _files(document.value)
    project = result.workspace.project_document
    files |= {project.source.name} if project else set()
    result._found = {
        key: value
        for key, value in result._found.items()
        if value[0].span.file in files or any(related.span.file in files for related in value[0].related)
    }
    result.artifacts = [a for a in result.artifacts if {s.service for s in a.sources.values()} & kept]
    result.plans = [
        dataclasses.replace(p, services=tuple(s for s in p.services if s.name in kept)) for p in result.plans
    ]


def _files(node: object) -> set[str]:
    """The files that entries of a merged document came from."""
    if not isinstance(node, Map | Seq):
        return set()
    places, values = (node.at.values(), node.values()) if isinstance(node, Map) else (node.at, node)
    return {place.source.name for place in places}.union(*(_files(value) for value in values))
