"""The gateway of an environment: who may call, what stands in for whom, and what it is made of.

It belongs to the environment, not to a service, so most of its problems lie in the Project.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from aibrix_compile.diagnostics import Path, Problem, Severity
from aibrix_compile.lock import Lock
from aibrix_compile.passes import images
from aibrix_compile.passes.draft import Draft
from aibrix_compile.passes.fleet import Finding
from aibrix_compile.passes.routing import picker_reason
from aibrix_compile.plan import GatewayPlan, TenantPlan
from aibrix_compile.spec.decode import sound
from aibrix_compile.spec.modelservice import ServiceSpec
from aibrix_compile.spec.project import Environment, Gateway, Images


class Parts(NamedTuple):
    """Where the gateway stands in the Project, and what its images are found by."""

    path: Path
    environment: Environment
    gateway: Gateway
    images: Images
    lock: Lock

    @property
    def envoy(self) -> str:
        written = "image" in self.gateway.model_fields_set
        return images.resolved(self.gateway.image, "" if written else self.images.mirror or "", self.lock)[0]

    @property
    def picker(self) -> str:
        return images.resolved(self.gateway.picker.image or self.images.controllers or "", "", self.lock)[0]


def project(parts: Parts, drafts: Sequence[Draft], build: bool) -> Iterator[Problem]:
    """What is wrong with the gateway itself."""
    path, _, gateway, _, _ = parts
    if gateway.mode == "gateway-api":
        message = "gateway-api is valid, but what would act on it is not compiled yet: an InferencePool and its routes"
        yield Problem("AC510", (*path, "mode"), message, "write mode: envoy, the gateway that is compiled", fix="envoy")
        return
    yield from _callers(parts)
    policy = parts.environment.policy
    yield from images.policy(policy, parts.envoy, (*path, "image"))
    needing = [draft.metadata.name for draft in drafts if picker_reason(draft)]
    if gateway.picker.image:
        yield from images.policy(policy, parts.picker, (*path, "picker", "image"))
    elif needing and build and not parts.picker:
        names = ", ".join(needing[:3]) + (" and others" if len(needing) > 3 else "")
        message = f"a picker chooses the replicas of {names}, and no image of it is published yet"
        hint = "set images.controllers to one that you built from controllers/, or route by least-request, which Envoy does alone"
        yield Problem("AC502", path, message, hint, at_key=True)


def _callers(parts: Parts) -> Iterator[Problem]:
    path, _, gateway, _, _ = parts
    first: dict[str, int] = {}
    for index, tenant in enumerate(gateway.tenants):
        if (other := first.setdefault(tenant.name, index)) != index:
            message = f'two tenants are named "{tenant.name}"'
            related = (((*path, "tenants", other, "name"), "the other one"),)
            yield Problem("AC203", (*path, "tenants", index, "name"), message, "rename one", related=related)
    if gateway.tenants and gateway.apiKeys is None:
        message = "tenants are named, and nothing tells one from another"
        hint = "add apiKeys: {secret: NAME}, a Secret with an entry for each tenant, one key a line"
        yield Problem("AC237", (*path, "tenants"), message, hint, at_key=True)
    elif gateway.apiKeys is not None and not gateway.tenants:
        message = "keys are asked for, and no tenant is named to whom one could belong"
        yield Problem("AC237", (*path, "apiKeys"), message, "add tenants: [{name: ...}]", at_key=True)
    elif gateway.apiKeys is None:
        message = "the gateway asks for no key: whoever reaches it may use every service"
        hint = "add apiKeys and tenants, or keep its network closed"
        yield Problem("AC238", path, message, hint, severity=Severity.WARNING, at_key=True)


def services(drafts: Sequence[Draft]) -> Iterator[Finding]:
    """A service that answers in another's place answers to the same model name: engines know no other."""
    named = {draft.metadata.name: draft for draft in drafts}
    yield from _modules(drafts)
    yield from _adapters(drafts)
    for draft in drafts:
        for path, name in _stand_ins(draft.spec):
            other = named.get(name)
            if other is None:
                continue  # AC225
            if other is draft:
                problem = Problem("AC239", path, "a service can not stand in for itself", "name another service")
                yield Finding(draft, problem)
            elif draft.served_name and other.served_name and other.served_name != draft.served_name:
                message = f'"{name}" answers to "{other.served_name}", and requests here ask for "{draft.served_name}"'
                hint = f"set model.servedName of {name} to {draft.served_name}"
                problem = Problem("AC239", path, message, hint)
                yield Finding(draft, problem, ((other, ("spec", "model", "servedName"), "the other name"),))


def _modules(drafts: Sequence[Draft]) -> Iterator[Finding]:
    """One picker loads all modules, so two of one name must be one."""
    seen: dict[str, tuple[Draft, str]] = {}
    path: Path = ("spec", "routing", "strategy", "custom", "function")
    for draft in drafts:
        wanted = draft.spec.routing.strategy
        if wanted.name != "custom" or wanted.parameters.source is None:
            continue
        module, text = wanted.parameters.function.partition(":")[0], wanted.parameters.source
        other, before = seen.setdefault(module, (draft, text))
        if before != text:
            message = f'two services bring a module "{module}", and they differ'
            yield Finding(draft, Problem("AC203", path, message, "rename one"), ((other, path, "the other one"),))


def _adapters(drafts: Sequence[Draft]) -> Iterator[Finding]:
    """Behind a gateway a model's name says which service is meant, adapters' names too. What stands in for another service
    shares its names."""
    hidden = {name for draft in drafts for _, name in _stand_ins(draft.spec)}
    seen: dict[str, tuple[Draft, Path]] = {}
    shown = [draft for draft in drafts if draft.metadata.name not in hidden and draft.site.environment.gateway]
    for draft in shown:
        if draft.served_name:
            seen.setdefault(draft.served_name, (draft, ("spec", "model", "servedName")))
    for draft in shown:
        for index, item in enumerate(draft.spec.adapters.items if draft.spec.adapters else ()):
            path: Path = ("spec", "adapters", "items", index, "name")
            other, where = seen.setdefault(item.name, (draft, path))
            if other is not draft and sound(draft.invalid, path):
                problem = Problem("AC202", path, f'two services answer to "{item.name}"', "rename the adapter")
                yield Finding(draft, problem, ((other, where, "the other one"),))


def _stand_ins(spec: ServiceSpec) -> Iterator[tuple[Path, str]]:
    if spec.routing.canary is not None:
        yield ("spec", "routing", "canary", "service"), spec.routing.canary.service
    if spec.routing.spillTo is not None:
        yield ("spec", "routing", "spillTo"), spec.routing.spillTo


def plan(parts: Parts, drafts: Sequence[Draft]) -> GatewayPlan:
    """The gateway with nothing left open."""
    path, environment, gateway, _, _ = parts
    reasons = [f"{draft.metadata.name}: {reason}" for draft in drafts if (reason := picker_reason(draft))]
    return GatewayPlan(
        name=f"{environment.name}-gateway",
        namespace=gateway.namespace,
        path=path,
        image=parts.envoy,
        replicas=gateway.replicas,
        hostname=gateway.hostname or "",
        tls_secret=gateway.tls.secret if gateway.tls else "",
        service_type=gateway.service.type,
        service_annotations=dict(gateway.service.annotations),
        body_limit=gateway.bodyLimit,
        keys_secret=gateway.apiKeys.secret if gateway.apiKeys else "",
        tenants=tuple(
            TenantPlan(one.name, one.requestsPerMinute or 0, one.tokensPerMinute or 0) for one in gateway.tenants
        ),
        headers=gateway.headers,
        picker=f"{environment.name}-picker" if reasons else "",
        picker_image=parts.picker if reasons else "",
        picker_replicas=(gateway.picker.replicas or gateway.replicas) if reasons else 0,
    )
