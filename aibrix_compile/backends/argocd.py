"""Plan -> Argo CD Applications: one for each service and one for the gateway, so that none waits for another's pods.

Every option answers something that a real Argo CD was seen to do; see ARCHITECTURE.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from aibrix_compile.artifact import Artifact, Object, Source
from aibrix_compile.backends.objects import (
    GATEWAY_LABEL,
    PROJECT_FILE,
    RETRY,
    SERVICE_LABEL,
    SOURCE_ANNOTATION,
    artifact,
    dotted,
)
from aibrix_compile.emit import json_text
from aibrix_compile.ownership import ignore_differences
from aibrix_compile.plan import ArgoTarget, EnvironmentPlan, ServicePlan

HYDRATOR_FILE = "hydrator.metadata"


def emit(environment: EnvironmentPlan) -> list[Artifact]:
    """The Applications of an environment that has Argo CD."""
    target = environment.argocd
    if target is None:
        return []
    folder, gateway = f"{environment.name}/argocd", environment.gateway
    found = [
        artifact(folder, _application(environment, target, service), {(): Source(service.name, ("metadata", "name"))})
        for service in environment.services
    ]
    if gateway is not None:
        about = _about(
            target, gateway.name, {GATEWAY_LABEL: environment.name}, f"{PROJECT_FILE}#{dotted(gateway.path)}"
        )
        value = {**about, "spec": _spec(target, "gateway", gateway.namespace, [])}
        found.append(artifact(folder, value, {(): Source("", gateway.path)}))
    return found


def hydrator_metadata(dry_sha: str) -> str:
    """What Argo CD's source hydrator writes beside rendered manifests, for promotion from branch to branch."""
    return json_text({"drySha": dry_sha, "commands": ["aibrix-compile build -o ."], "references": []})


def _application(environment: EnvironmentPlan, target: ArgoTarget, service: ServicePlan) -> Object:
    kinds = (
        (("Deployment" if pool.nodes == 1 else "LeaderWorkerSet"), pool.workload)
        for pool in service.pools
        if pool.scaled
    )
    name, source = f"{environment.name}-{service.name}", f"{service.file}#metadata.name"
    about = _about(target, name, {SERVICE_LABEL: service.name}, source)
    return {**about, "spec": _spec(target, service.name, service.namespace, ignore_differences(kinds))}


def _about(target: ArgoTarget, name: str, labels: Mapping[str, str], source: str) -> Object:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {
            "name": name,
            "namespace": target.namespace,
            "labels": {"app.kubernetes.io/managed-by": "aibrix-compile", **labels},
            "annotations": {
                "argocd.argoproj.io/compare-options": "ServerSideDiff=true",
                SOURCE_ANNOTATION: source,
            },
            "finalizers": ["resources-finalizer.argocd.argoproj.io"],  # deleting the Application deletes the service
        },
    }


def _spec(target: ArgoTarget, folder: str, namespace: str, scaled: list[Object]) -> Object:
    destination = {"name": target.cluster} if target.cluster else {"server": target.server}
    return {
        "project": target.project,
        "source": {
            "repoURL": target.repo_url,
            "targetRevision": target.target_revision,
            "path": "/".join(part for part in (target.path.strip("/"), folder) if part),
        },
        "destination": {**destination, "namespace": namespace},
        "syncPolicy": {
            "automated": {"prune": True, "selfHeal": True},
            "syncOptions": ["ServerSideApply=true", "RespectIgnoreDifferences=true"],
            "retry": RETRY,
        },
        **({"ignoreDifferences": scaled} if scaled else {}),
    }
