"""Plan -> Argo CD Applications: one for each service, so that none waits for another's pods.

Every option answers something that a real Argo CD was seen to do; see ARCHITECTURE.md.
"""

from __future__ import annotations

from aibrix_compile.artifact import Artifact, Object, Source
from aibrix_compile.backends.objects import RETRY, SERVICE_LABEL, SOURCE_ANNOTATION, artifact
from aibrix_compile.emit import json_text
from aibrix_compile.ownership import ignore_differences
from aibrix_compile.plan import ArgoTarget, EnvironmentPlan, ServicePlan

HYDRATOR_FILE = "hydrator.metadata"


def emit(environment: EnvironmentPlan) -> list[Artifact]:
    """The Applications of an environment that has Argo CD."""
    target = environment.argocd
    if target is None:
        return []
    folder = f"{environment.name}/argocd"
    return [
        artifact(folder, _application(environment, target, service), {(): Source(service.name, ("metadata", "name"))})
        for service in environment.services
    ]


def hydrator_metadata(dry_sha: str) -> str:
    """What Argo CD's source hydrator writes beside rendered manifests, for promotion from branch to branch."""
    return json_text({"drySha": dry_sha, "commands": ["aibrix-compile build -o ."], "references": []})


def _application(environment: EnvironmentPlan, target: ArgoTarget, service: ServicePlan) -> Object:
    destination = {"name": target.cluster} if target.cluster else {"server": target.server}
    kinds = (
        (("Deployment" if pool.nodes == 1 else "LeaderWorkerSet"), pool.workload)
        for pool in service.pools
        if pool.scaled
    )
    scaled = ignore_differences(kinds)
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {
            "name": f"{environment.name}-{service.name}",
            "namespace": target.namespace,
            "labels": {"app.kubernetes.io/managed-by": "aibrix-compile", SERVICE_LABEL: service.name},
            "annotations": {
                "argocd.argoproj.io/compare-options": "ServerSideDiff=true",
                SOURCE_ANNOTATION: f"{service.file}#metadata.name",
            },
            "finalizers": ["resources-finalizer.argocd.argoproj.io"],  # deleting the Application deletes the service
        },
        "spec": {
            "project": target.project,
            "source": {
                "repoURL": target.repo_url,
                "targetRevision": target.target_revision,
                "path": "/".join(part for part in (target.path.strip("/"), service.name) if part),
            },
            "destination": {**destination, "namespace": service.namespace},
            "syncPolicy": {
                "automated": {"prune": True, "selfHeal": True},
                "syncOptions": ["ServerSideApply=true", "RespectIgnoreDifferences=true"],
                "retry": RETRY,
            },
            **({"ignoreDifferences": scaled} if scaled else {}),
        },
    }
