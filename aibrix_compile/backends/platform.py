"""What a cluster needs once, before any service: namespaces, the two kinds, who may do what, and what Argo CD must know.

Three folders, because three things apply them: the platform itself, one Application for each environment; `crds`, one
Application for each cluster, however many environments share it; `argocd`, which a person applies where Argo CD runs.
Roles derive from ownership.py: a controller may write what it owns and nothing else. They are all namespaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from aibrix_compile import crds
from aibrix_compile.artifact import Artifact, Object
from aibrix_compile.backends.objects import CONTROLLER_LABEL, ORDER, PICKER_ACCOUNT, RETRY, scraped
from aibrix_compile.backends.pods import SECURITY, pod_security
from aibrix_compile.backends.sidecar import IDENTITY, caller_mount, caller_token
from aibrix_compile.emit import yaml_text
from aibrix_compile.ownership import SCALED, SCALER, Owned
from aibrix_compile.plan import ArgoTarget

ADAPTERS = "aibrix-adapters"
PLUGIN = "aibrix-compile"
IN_CLUSTER = "https://kubernetes.default.svc"

_ORDER = {**ORDER, "Namespace": 1, "CustomResourceDefinition": 2, "Role": 11, "RoleBinding": 12}
_PLURALS = {"Deployment": "deployments", "LeaderWorkerSet": "leaderworkersets"}
_NOT_OURS = re.compile(r"default\Z|kube-")  # namespaces that every cluster has already
_READ = ["get", "list", "watch"]
_LABELS = {"app.kubernetes.io/part-of": "aibrix", "app.kubernetes.io/managed-by": "aibrix-compile"}
_OPTIONS = "argocd.argoproj.io/sync-options"


@dataclass(frozen=True, slots=True)
class PlatformPlan:
    """One environment. `gateway` is the gateway's namespace, empty without one; `argocd_namespace` is where Argo CD is."""

    environment: str
    namespace: str
    gateway: str
    kubernetes: str
    argocd_namespace: str
    argocd: ArgoTarget | None
    controllers: str = ""
    """The image of controllers; without it none runs here."""
    monitored: bool = False
    """Whether the cluster has PodMonitors."""


def emit(plan: PlatformPlan) -> list[Artifact]:
    """All objects; paths are relative to the environment's folder `platform`."""
    found = [Artifact(_file("", one), one) for one in (*_namespaces(plan), *_access(plan), *_controllers(plan))]
    found += [Artifact(_file("crds/", one), one) for one in definitions()]
    found += [Artifact(_file("argocd/", one), one) for one in (*_config(plan), *_applications(plan))]
    return found


def definitions() -> list[Object]:
    """The CustomResourceDefinitions as Argo CD may hold them: deleting one would delete every object of its kind."""
    kept = {_OPTIONS: "Prune=false,Delete=false,ServerSideApply=true"}
    return [{**one, "metadata": {**one["metadata"], "annotations": kept}} for one in crds.definitions().values()]


def _file(folder: str, value: Object) -> str:
    kind = value["kind"]
    return f"{folder}{_ORDER[kind]:02d}-{kind.lower()}-{value['metadata']['name']}.yaml"


def _namespaces(plan: PlatformPlan) -> Iterable[Object]:
    """Held to the strictest Pod Security level, which all that we emit meets; its version is pinned, so that an upgrade of
    the cluster does not turn away pods that ran."""
    version = f"v{plan.kubernetes}"
    for name in dict.fromkeys(filter(None, (plan.namespace, plan.gateway))):
        if not _NOT_OURS.match(name):
            security = {
                f"pod-security.kubernetes.io/{mode}{part}": value
                for mode in ("enforce", "audit", "warn")
                for part, value in (("", "restricted"), ("-version", version))
            }
            yield {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {
                    "name": name,
                    "labels": {**_LABELS, **security},
                    "annotations": {_OPTIONS: "Prune=false,Delete=false"},
                },
            }


# --- who may do what


def _access(plan: PlatformPlan) -> Iterable[Object]:
    """A ServiceAccount for each controller and its Roles, in the namespaces that it works in."""
    yield _account(SCALER, plan.namespace)
    yield from _bound(SCALER, plan.namespace, plan.namespace, _scaler_rules(SCALED))
    yield _account(ADAPTERS, plan.namespace)
    yield from _bound(ADAPTERS, plan.namespace, plan.namespace, _adapters_rules())
    if not plan.gateway:
        return
    yield _account(PICKER_ACCOUNT, plan.gateway)
    yield from _bound(PICKER_ACCOUNT, plan.gateway, plan.namespace, _picker_rules())
    if plan.gateway != plan.namespace:
        peers = [_rule(["discovery.k8s.io"], ["endpointslices"], _READ)]
        yield from _bound(PICKER_ACCOUNT, plan.gateway, plan.gateway, peers)  # the other pickers
        yield from _bound(SCALER, plan.namespace, plan.gateway, peers)  # what pickers hold and shed


def _controllers(plan: PlatformPlan) -> Iterable[Object]:
    """The controllers: of each two copies, of which one leads; and who may reach them."""
    if plan.controllers:
        yield from _controller(plan, ADAPTERS)
        yield from _controller(plan, SCALER)


def _controller(plan: PlatformPlan, account: str) -> Iterable[Object]:
    name = account.removeprefix("aibrix-")
    chosen = {CONTROLLER_LABEL: name}
    about = {"app.kubernetes.io/name": account, **_LABELS, **chosen}
    home = {"name": account, "namespace": plan.namespace, "labels": about}
    pickers = ["--pickers", f"{plan.environment}-picker.{plan.gateway}.svc.cluster.local:9090"] if plan.gateway else []
    ready, alive = ({"httpGet": {"path": path, "port": "metrics"}} for path in ("/readyz", "/healthz"))
    container = {
        "name": name,
        "image": plan.controllers,
        "command": ["python3", "-m", f"aibrix_controllers.{name}", "run"],
        "args": ["--namespace", plan.namespace, *pickers, "--runtime-token", f"{IDENTITY}/token"],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "metrics", "containerPort": 9090, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "200m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": SECURITY,
        "startupProbe": {**alive, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {**ready, "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "volumeMounts": [caller_mount()],
    }
    pod = {
        "serviceAccountName": account,
        "automountServiceAccountToken": True,  # it reads pods and writes status
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 15,
        "securityContext": pod_security(),
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": chosen},
            }
        ],
        "containers": [container],
        "volumes": [caller_token()],
    }
    yield {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": home,
        "spec": {
            "replicas": 2,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": chosen},
            "template": {"metadata": {"labels": about}, "spec": pod},
        },
    }
    yield {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": home,
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": chosen}, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
    }
    yield {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": home,
        "spec": {
            "podSelector": {"matchLabels": chosen},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": "metrics", "protocol": "TCP"}]}],
        },
    }
    if plan.monitored:
        yield {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": home,
            "spec": {
                "selector": {"matchLabels": chosen},
                "podMetricsEndpoints": [scraped("metrics", {"pod": "name"})],
            },
        }


def _scaler_rules(owned: Iterable[Owned]) -> list[Object]:
    """Of what is scaled, the scaler sees and writes the subresource only: it can change a number, never an image."""
    scaled = [_rule([one.group], [f"{_PLURALS[one.kind]}/{one.subresource}"], ["get", "patch"]) for one in owned]
    return [
        *scaled,
        _rule([""], ["pods"], _READ),
        _rule(["discovery.k8s.io"], ["endpointslices"], _READ),
        *_kind_rules("scalingpolicies"),
        *_controller_rules(SCALER),
    ]


def _adapters_rules() -> list[Object]:
    """No Secrets: the runtime beside the engine fetches adapters, with what its own pod mounts."""
    return [_rule([""], ["pods"], _READ), *_kind_rules("adaptersets"), *_controller_rules(ADAPTERS)]


def _picker_rules() -> list[Object]:
    return [_rule([""], ["pods"], _READ), _rule(["discovery.k8s.io"], ["endpointslices"], _READ)]


def _kind_rules(plural: str) -> list[Object]:
    return [
        _rule([crds.GROUP], [plural], _READ),
        _rule([crds.GROUP], [f"{plural}/status"], ["get", "patch"]),
    ]


def _controller_rules(name: str) -> list[Object]:
    """Events, and one Lease by which one of several copies leads; RBAC can not bind `create` to a name."""
    leases = ["coordination.k8s.io"]
    return [
        _rule(["", "events.k8s.io"], ["events"], ["create", "patch"]),
        _rule(leases, ["leases"], ["create"]),
        {**_rule(leases, ["leases"], ["get", "update", "patch"]), "resourceNames": [name]},
    ]


def _rule(groups: list[str], resources: list[str], verbs: list[str]) -> Object:
    return {"apiGroups": groups, "resources": resources, "verbs": list(verbs)}


def _account(name: str, namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(name, namespace),
        "automountServiceAccountToken": False,  # a pod that needs the token says so
    }


def _bound(account: str, home: str, namespace: str, rules: list[Object]) -> Iterable[Object]:
    """A Role in `namespace` for the account that lives in `home`; named after home where that is another namespace."""
    name = account if home == namespace else f"{account}-{home}"
    api = "rbac.authorization.k8s.io"
    yield {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": _metadata(name, namespace), "rules": rules}
    yield {
        "apiVersion": f"{api}/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(name, namespace),
        "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": home}],
    }


def _metadata(name: str, namespace: str) -> Object:
    return {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/name": name, **_LABELS}}


# --- Argo CD


def _config(plan: PlatformPlan) -> Iterable[Object]:
    """For Argo CD's own namespace. argocd-cm is a part of the real one: server-side apply merges it in and owns its keys
    only; a plain apply or replace would drop the rest."""
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "argocd-cm",
            "namespace": plan.argocd_namespace,
            "labels": {"app.kubernetes.io/part-of": "argocd"},  # without it Argo CD does not read the ConfigMap
        },
        "data": crds.health_checks(),
    }
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{PLUGIN}-plugin", "namespace": plan.argocd_namespace, "labels": _LABELS},
        "data": {"plugin.yaml": yaml_text(plugin())},
    }


def plugin() -> Object:
    """The Config Management Plugin. Without `discover` it acts only on Applications that name it, and without a version its
    name is its own."""
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "ConfigManagementPlugin",
        "metadata": {"name": PLUGIN},
        "spec": {
            "generate": {"command": ["aibrix-compile", "argocd", "generate"]},
            "parameters": {
                "static": [
                    {
                        "name": "environment",
                        "title": "Environment",
                        "tooltip": "Environment of aibrix.yaml; needed where there are several",
                        "itemType": "string",
                        "collectionType": "string",
                    }
                ]
            },
        },
    }


def _applications(plan: PlatformPlan) -> Iterable[Object]:
    target = plan.argocd
    if target is None:
        return
    folder = "/".join(part for part in (target.path.strip("/"), "platform") if part)
    yield _application(f"{plan.environment}-platform", target, folder, plan.namespace)
    # one name for each cluster: environments that share it share this Application, and no two fight over a definition
    cluster = target.cluster or ("" if target.server == IN_CLUSTER else target.server.partition("://")[2])
    words = re.sub(r"[^a-z0-9]+", "-", cluster.lower()).strip("-")
    yield _application("-".join(filter(None, ("aibrix-crds", words))), target, f"{folder}/crds", plan.namespace)


def _application(name: str, target: ArgoTarget, path: str, namespace: str) -> Object:
    """No finalizer: deleting the Application leaves what services stand on."""
    destination = {"name": target.cluster} if target.cluster else {"server": target.server}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Application",
        "metadata": {
            "name": name,
            "namespace": target.namespace,
            "labels": _LABELS,
            "annotations": {"argocd.argoproj.io/compare-options": "ServerSideDiff=true"},
        },
        "spec": {
            "project": target.project,
            "source": {
                "repoURL": target.repo_url,
                "targetRevision": target.target_revision,
                "path": path,
            },
            "destination": {**destination, "namespace": namespace},
            "syncPolicy": {
                "automated": {"prune": True, "selfHeal": True},
                "syncOptions": ["ServerSideApply=true"],
                "retry": RETRY,
            },
        },
    }
