"""A small set of plain objects in which all resolves, and a table of mistakes: each is found once, at its field."""

import copy
from typing import Any

import pytest

from aibrix_compile.artifact import Artifact, External, Object, Source
from aibrix_compile.closure import unresolved
from aibrix_compile.diagnostics import Path

CHAT = {"app": "chat"}
NS = "assistants"
EXTERNALS = [
    External(kind, namespace, name, Source("chat", ()))
    for kind, namespace, name in (
        ("Secret", NS, "hf-token"),
        ("Secret", NS, "registry"),
        ("PersistentVolumeClaim", NS, "weights"),
        ("PriorityClass", "", "production"),
    )
]


def _object(kind: str, name: str, api: str = "v1", **fields: Any) -> Object:
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "namespace": NS, "labels": dict(CHAT)},
        **fields,
    }


def _probe() -> Object:
    return {"httpGet": {"path": "/health", "port": "http"}}


def _template() -> Object:
    loader = {"name": "loader", "volumeMounts": [{"name": "weights", "mountPath": "/models"}]}
    engine = {
        "name": "engine",
        "env": [
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf-token", "key": "token"}}},
            {"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "chat-engine", "key": "level"}}},
            {"name": "MAYBE", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "x", "optional": True}}},
        ],
        "envFrom": [{"configMapRef": {"name": "chat-engine"}}],
        "ports": [{"name": "http", "containerPort": 8000, "protocol": "TCP"}],
        "startupProbe": _probe(),
        "readinessProbe": _probe(),
        "livenessProbe": {"tcpSocket": {"port": 9000}},
        "lifecycle": {"preStop": _probe()},
        "volumeMounts": [
            {"name": "weights", "mountPath": "/models"},
            {"name": "config", "mountPath": "/etc/engine"},
            {"name": "all", "mountPath": "/etc/all"},
        ],
    }
    return {
        "metadata": {"labels": {**CHAT, "pool": "l4"}},
        "spec": {
            "serviceAccountName": "chat",
            "priorityClassName": "production",
            "imagePullSecrets": [{"name": "registry"}],
            "topologySpreadConstraints": [{"topologyKey": "zone", "labelSelector": {"matchLabels": dict(CHAT)}}],
            "affinity": {
                "podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 1, "podAffinityTerm": {"labelSelector": {"matchLabels": dict(CHAT)}}}
                    ]
                }
            },
            "initContainers": [loader],
            "containers": [engine],
            "volumes": [
                {"name": "weights", "persistentVolumeClaim": {"claimName": "weights"}},
                {"name": "config", "configMap": {"name": "chat-engine", "items": [{"key": "drain.py", "path": "d"}]}},
                {
                    "name": "all",
                    "projected": {
                        "sources": [
                            {"configMap": {"name": "chat-engine", "items": [{"key": "level", "path": "l"}]}},
                            {"secret": {"name": "hf-token"}},
                        ]
                    },
                },
            ],
        },
    }


def _valid() -> list[Object]:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}
    chosen = {"matchLabels": dict(CHAT)}
    application = _object("Application", "chat", "argoproj.io/v1alpha1")
    application["metadata"]["namespace"] = "argocd"
    application["spec"] = {
        "source": {"path": "deploy/production/chat"},
        "destination": {"namespace": NS},
        "ignoreDifferences": [{"group": "apps", "kind": "Deployment", "name": "chat", "namespace": NS}],
    }
    return [
        _object("Deployment", "chat", "apps/v1", spec={"selector": copy.deepcopy(chosen), "template": _template()}),
        _object("Service", "chat", spec={"selector": dict(CHAT), "ports": ports}),
        _object(
            "Service",
            "chat-headless",
            spec={"clusterIP": "None", "selector": dict(CHAT), "ports": [{"port": 8000}]},
        ),
        _object("ServiceAccount", "chat"),
        _object("PodDisruptionBudget", "chat", "policy/v1", spec={"selector": copy.deepcopy(chosen)}),
        _object("ConfigMap", "chat-engine", data={"drain.py": "pass", "level": "info"}, binaryData={"b": "AAAA"}),
        _object("HorizontalPodAutoscaler", "chat", "autoscaling/v2", spec={"scaleTargetRef": scaled}),
        _object("ScalingPolicy", "chat", "serving.aibrix.ai/v1alpha1", spec={"targets": [{"ref": dict(scaled)}]}),
        _object(
            "NetworkPolicy",
            "chat",
            "networking.k8s.io/v1",
            spec={"podSelector": copy.deepcopy(chosen), "ingress": [{"ports": [{"port": "http"}]}]},
        ),
        _object(
            "PodMonitor",
            "chat",
            "monitoring.coreos.com/v1",
            spec={"selector": copy.deepcopy(chosen), "podMetricsEndpoints": [{"port": "http"}]},
        ),
        _object(
            "ServiceMonitor",
            "chat",
            "monitoring.coreos.com/v1",
            spec={"selector": copy.deepcopy(chosen), "endpoints": [{"port": "http"}]},
        ),
        _object("Role", "chat", "rbac.authorization.k8s.io/v1"),
        _object(
            "RoleBinding",
            "chat",
            "rbac.authorization.k8s.io/v1",
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "chat"},
            subjects=[{"kind": "ServiceAccount", "name": "chat", "namespace": NS}, {"kind": "User", "name": "ana"}],
        ),
        application,
    ]


def _artifacts(objects: list[Object]) -> list[Artifact]:
    return [
        Artifact(f"production/{'argocd' if one['kind'] == 'Application' else 'chat'}/{number}.yaml", one)
        for number, one in enumerate(objects)
    ]


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def test_all_resolves() -> None:
    assert unresolved(_artifacts(_valid()), EXTERNALS) == []


def test_nothing_needs_nothing() -> None:
    assert unresolved([], []) == []


def test_each_external_is_needed() -> None:
    for one in EXTERNALS:
        found = unresolved(_artifacts(_valid()), [other for other in EXTERNALS if other is not one])
        assert found and {f"{one.kind} {one.name}" in dangling.message for dangling in found} == {True}


POD: Path = ("spec", "template", "spec")
ENGINE: Path = (*POD, "containers", 0)
PREFERRED: Path = (*POD, "affinity", "podAntiAffinity", "preferredDuringSchedulingIgnoredDuringExecution", 0)
BOGUS = {"matchLabels": {"app": "bogus"}}
DEPLOYMENT, SERVICE, HEADLESS, ACCOUNT, BUDGET, CONFIG, SCALER, POLICY, NETWORK, MONITOR, SERVICES, _, BINDING, APP = (
    range(14)
)
ADD = object()

# what is wrong, the object, its field, the new value (APPENDED to a list where the path ends in ADD),
# where it is found (None: at that field), and words of the message
MUTATIONS: list[tuple[int, tuple[Any, ...], Any, Path | None, str]] = [
    # the pod's references by name
    (DEPLOYMENT, (*POD, "serviceAccountName"), "x", None, "Deployment chat refers to ServiceAccount x, which does not exist"),
    (DEPLOYMENT, (*POD, "serviceAccountName"), {}, None, "where the name of a ServiceAccount belongs"),
    (DEPLOYMENT, (*POD, "priorityClassName"), "x", None, "refers to PriorityClass x"),
    (DEPLOYMENT, (*POD, "imagePullSecrets", 0, "name"), "x", None, "refers to Secret x"),
    (DEPLOYMENT, (*POD, "volumes", 0, "persistentVolumeClaim", "claimName"), "x", None, "PersistentVolumeClaim x"),
    (DEPLOYMENT, (*POD, "volumes", 1, "configMap", "name"), "x", None, "refers to ConfigMap x"),
    (DEPLOYMENT, (*POD, "volumes", 1, "configMap", "items", 0, "key"), "x", None, 'reads "x" of ConfigMap chat-engine'),
    (DEPLOYMENT, (*POD, "volumes", 2, "projected", "sources", 0, "configMap", "name"), "x", None, "ConfigMap x"),
    (DEPLOYMENT, (*POD, "volumes", 2, "projected", "sources", 0, "configMap", "items", 0, "key"), "x", None, 'reads "x"'),
    (DEPLOYMENT, (*POD, "volumes", 2, "projected", "sources", 1, "secret", "name"), "x", None, "refers to Secret x"),
    (DEPLOYMENT, (*ENGINE, "env", 0, "valueFrom", "secretKeyRef", "name"), "x", None, "refers to Secret x"),
    (DEPLOYMENT, (*ENGINE, "env", 1, "valueFrom", "configMapKeyRef", "name"), "x", None, "refers to ConfigMap x"),
    (DEPLOYMENT, (*ENGINE, "env", 1, "valueFrom", "configMapKeyRef", "key"), "x", None, 'reads "x" of ConfigMap'),
    (DEPLOYMENT, (*ENGINE, "env", 2, "valueFrom", "secretKeyRef", "optional"), False, (*ENGINE, "env", 2, "valueFrom", "secretKeyRef", "name"), "Secret absent"),
    (DEPLOYMENT, (*ENGINE, "envFrom", 0, "configMapRef", "name"), "x", None, "refers to ConfigMap x"),
    # within the pod
    (DEPLOYMENT, (*ENGINE, "volumeMounts", ADD), {"name": "w", "mountPath": "/w"}, (*ENGINE, "volumeMounts", 3, "name"), 'Deployment chat mounts volume "w", which the pod does not define'),
    (DEPLOYMENT, (*ENGINE, "volumeMounts", ADD), {"name": "all", "mountPath": "/models"}, (*ENGINE, "volumeMounts", 3, "mountPath"), "two volumeMounts with mountPath /models"),
    (DEPLOYMENT, (*POD, "volumes", ADD), {"name": "w", "emptyDir": {}}, (*POD, "volumes", 3, "name"), 'defines volume "w", which no container mounts'),
    (DEPLOYMENT, (*POD, "volumes", ADD), {"name": "all", "emptyDir": {}}, (*POD, "volumes", 3, "name"), "two volumes with name all"),
    (DEPLOYMENT, (*POD, "initContainers", 0, "name"), "engine", (*ENGINE, "name"), "two containers named engine"),
    (DEPLOYMENT, (*ENGINE, "name"), "Engine", None, 'has the name "Engine", which Kubernetes refuses'),
    (DEPLOYMENT, (*ENGINE, "env", 0, "name"), "LEVEL", (*ENGINE, "env", 1, "name"), "two env with name LEVEL"),
    (DEPLOYMENT, (*ENGINE, "ports", ADD), {"name": "http", "containerPort": 1}, (*ENGINE, "ports", 1, "name"), "two ports named http"),
    (DEPLOYMENT, (*ENGINE, "ports", ADD), {"name": "more", "containerPort": 8000}, (*ENGINE, "ports", 1, "containerPort"), "containerPort 8000"),
    (DEPLOYMENT, (*ENGINE, "ports", ADD), {"name": "a-name-of-16-let", "containerPort": 1}, (*ENGINE, "ports", 1, "name"), "port name"),
    (DEPLOYMENT, (*ENGINE, "ports", ADD), {"name": "80", "containerPort": 1}, (*ENGINE, "ports", 1, "name"), "port name"),
    (DEPLOYMENT, (*ENGINE, "startupProbe", "httpGet", "port"), "x", None, "asks port x in startupProbe, which container engine does not have"),
    (DEPLOYMENT, (*ENGINE, "readinessProbe", "httpGet", "port"), "x", None, "asks port x in readinessProbe"),
    (DEPLOYMENT, (*ENGINE, "livenessProbe", "tcpSocket", "port"), "x", None, "asks port x in livenessProbe"),
    (DEPLOYMENT, (*ENGINE, "lifecycle", "preStop", "httpGet", "port"), "x", None, "asks port x in lifecycle"),
    (DEPLOYMENT, (*POD, "topologySpreadConstraints", 0, "labelSelector"), BOGUS, None, "spreads pods with app=bogus"),
    (DEPLOYMENT, (*PREFERRED, "podAffinityTerm", "labelSelector"), BOGUS, None, "keeps away from pods with app=bogus"),
    (DEPLOYMENT, ("spec", "selector"), BOGUS, None, "selects pods with app=bogus, which its own pods do not have"),
    (DEPLOYMENT, ("spec", "selector"), {"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["l4"]}]}, None, "pool NotIn (l4)"),
    # references by label and port
    (SERVICE, ("spec", "selector"), {"app": "bogus"}, None, "Service chat selects pods with app=bogus: namespace assistants has none"),
    (SERVICE, ("spec", "ports", 0, "targetPort"), "grpc", None, "sends to port grpc, which the pods of Deployment chat do not have"),
    (SERVICE, ("spec", "ports", 0, "targetPort"), 8001, None, "sends to port 8001"),
    (HEADLESS, ("spec", "ports", 0, "port"), 9, None, "sends to port 9"),
    (SERVICE, ("spec", "ports", ADD), {"name": "http", "port": 81, "targetPort": "http"}, ("spec", "ports", 1, "name"), "two ports with name http"),
    (SERVICE, ("spec", "ports", ADD), {"name": "b", "port": 80, "targetPort": "http"}, ("spec", "ports", 1, "port"), "two ports with port 80"),
    (BUDGET, ("spec", "selector"), BOGUS, None, "PodDisruptionBudget chat selects pods with app=bogus"),
    (NETWORK, ("spec", "podSelector"), BOGUS, None, "NetworkPolicy chat selects pods with app=bogus"),
    (NETWORK, ("spec", "ingress", 0, "ports", 0, "port"), "grpc", None, "admits to port grpc"),
    (NETWORK, ("spec", "ingress", ADD), {"from": [{"podSelector": BOGUS}]}, ("spec", "ingress", 1, "from", 0, "podSelector"), "app=bogus"),
    (MONITOR, ("spec", "selector"), BOGUS, None, "PodMonitor chat selects pods with app=bogus"),
    (MONITOR, ("spec", "podMetricsEndpoints", 0, "port"), "x", None, "scrapes port x"),
    (SERVICES, ("spec", "selector"), BOGUS, None, "ServiceMonitor chat selects services with app=bogus"),
    (SERVICES, ("spec", "endpoints", 0, "port"), "x", None, "scrapes port x, which Service chat does not have"),
    # references of other objects by name
    (SCALER, ("spec", "scaleTargetRef", "name"), "x", None, "HorizontalPodAutoscaler chat refers to Deployment x"),
    (SCALER, ("spec", "scaleTargetRef", "kind"), "StatefulSet", ("spec", "scaleTargetRef", "name"), "refers to StatefulSet chat"),
    (SCALER, ("spec", "scaleTargetRef", "apiVersion"), "extensions/v1", ("spec", "scaleTargetRef", "name"), "refers to Deployment chat"),
    (POLICY, ("spec", "targets", 0, "ref", "name"), "x", None, "ScalingPolicy chat refers to Deployment x"),
    (BINDING, ("roleRef", "name"), "x", None, "RoleBinding chat refers to Role x"),
    (BINDING, ("subjects", 0, "name"), "x", None, "RoleBinding chat refers to ServiceAccount x"),
    (BINDING, ("subjects", 0, "namespace"), "x", ("subjects", 0, "name"), "ServiceAccount chat, which does not exist in namespace x"),
    (SCALER, ("metadata", "namespace"), "other", ("spec", "scaleTargetRef", "name"), "does not exist in namespace other"),
    # Argo CD
    (APP, ("spec", "source", "path"), "deploy/production/x", None, "reads deploy/production/x, into which nothing is written"),
    (APP, ("spec", "source", "path"), "/deploy/production/chat", None, "no folder inside a repository"),
    (APP, ("spec", "source", "path"), "../production/chat", None, "no folder inside a repository"),
    (APP, ("spec", "source"), {}, ("spec", "source", "path"), "no folder inside a repository"),
    (APP, ("spec", "destination"), {}, None, "has no spec.destination.namespace"),
    (APP, ("spec", "ignoreDifferences", 0, "name"), "x", ("spec", "ignoreDifferences", 0), "ignores differences of Deployment x of group apps"),
    (APP, ("spec", "ignoreDifferences", 0, "group"), "", ("spec", "ignoreDifferences", 0), "ignores differences of Deployment chat"),
    (APP, ("spec", "ignoreDifferences", 0, "namespace"), "x", ("spec", "ignoreDifferences", 0), "ignores differences"),
    (APP, ("spec", "ignoreDifferences", 0), {"group": "apps", "kind": "StatefulSet"}, None, "ignores differences of StatefulSet"),
    # spelling and size
    (BUDGET, ("metadata", "name"), "a..b", None, "has a name that Kubernetes refuses"),
    (HEADLESS, ("metadata", "name"), "a.b", None, "has a name that Kubernetes refuses"),
    (HEADLESS, ("metadata", "name"), "a" * 64, None, "has a name that Kubernetes refuses"),
    (CONFIG, ("metadata", "labels", "team"), "a" * 64, None, "no value of a label"),
    (CONFIG, ("metadata", "labels", "team"), "a b", None, "no value of a label"),
    (CONFIG, ("metadata", "labels", "team"), True, None, "no value of a label"),
    (CONFIG, ("metadata", "labels", "a/b/c"), "x", None, 'the label "a/b/c"'),
    (DEPLOYMENT, ("spec", "template", "metadata", "labels", "team"), "-", None, "no value of a label"),
    (CONFIG, ("metadata", "annotations"), {"a": "é" * 2**17}, None, "more than 256 KiB of annotations"),
    (CONFIG, ("data", "big"), "é" * 2**19, ("data",), "larger than 1 MiB"),
    (CONFIG, ("binaryData", "big"), "A" * (4 * 2**20 // 3), ("data",), "larger than 1 MiB"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "field", "value", "expected", "words"), MUTATIONS, ids=[one[4][-60:] for one in MUTATIONS]
)
def test_a_mistake_is_found_once(number: int, field: Path, value: Any, expected: Path | None, words: str) -> None:
    objects = _valid()
    holder = _at(objects[number], field[:-1])
    if field[-1] is ADD:
        holder.append(value)
    else:
        holder[field[-1]] = value
    (found,) = unresolved(_artifacts(objects), EXTERNALS)
    assert (found.artifact.object, found.path) == (objects[number], field if expected is None else expected)
    assert words in found.message
    assert found.hint


def test_one_identity_twice() -> None:
    artifacts = _artifacts(_valid())
    (found,) = unresolved([*artifacts, Artifact("production/chat/more.yaml", artifacts[ACCOUNT].object)], EXTERNALS)
    assert (
        found.message == "ServiceAccount chat is there twice, in production/chat/3.yaml and production/chat/more.yaml"
    )


def test_one_name_in_two_groups_is_no_duplicate() -> None:
    other = _object("Service", "chat", "serving.knative.dev/v1")
    assert unresolved(_artifacts([*_valid(), other]), EXTERNALS) == []


def test_one_file_twice() -> None:
    more = Artifact("production/chat/0.yaml", _object("ServiceAccount", "more"))
    (found,) = unresolved([*_artifacts(_valid()), more], EXTERNALS)
    assert found.message == "Deployment chat and ServiceAccount more would both be written to production/chat/0.yaml"


def test_references_stay_in_their_namespace() -> None:
    objects = _valid()
    objects[CONFIG]["metadata"]["namespace"] = "other"
    found = unresolved(_artifacts(objects), EXTERNALS)
    assert len(found) == 4 and {one.hint for one in found} == {"there is one in namespace other"}


def test_what_a_later_wave_brings_can_not_be_waited_for() -> None:
    objects = _valid()
    objects[ACCOUNT]["metadata"]["annotations"] = {"argocd.argoproj.io/sync-wave": "1"}
    (found,) = unresolved(_artifacts(objects), EXTERNALS)
    assert found.path == (*POD, "serviceAccountName") and "synced in a later wave" in found.message


@pytest.mark.parametrize("kind", ["StatefulSet", "LeaderWorkerSet"])
def test_claims_of_a_workload_are_volumes_of_its_pods(kind: str) -> None:
    inner = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "volumeMounts": [{"name": "disk", "mountPath": "/d"}]}]}}  # fmt: skip
    claims = [{"metadata": {"name": "disk"}}]
    spec: Object = {"template": inner, "volumeClaimTemplates": claims}
    if kind == "LeaderWorkerSet":
        spec = {"leaderWorkerTemplate": {"workerTemplate": inner, "volumeClaimTemplates": claims}}
    value = _object(kind, "x", "apps/v1", spec=spec)
    assert unresolved(_artifacts([value]), []) == []
    claims.clear()
    (found,) = unresolved(_artifacts([value]), [])
    assert 'mounts volume "disk"' in found.message


@pytest.mark.parametrize(("port", "restart", "found"), [("side", "Always", 0), ("side", "", 1), ("none", "Always", 1)])
def test_a_sidecar_serves_and_an_init_container_does_not(port: str, restart: str, found: int) -> None:
    objects = _valid()
    side = {"name": "side", "restartPolicy": restart, "ports": [{"name": "side", "containerPort": 9}]}
    _at(objects[DEPLOYMENT], POD)["initContainers"].append(side)
    objects[SERVICE]["spec"]["ports"][0]["targetPort"] = port
    assert len(unresolved(_artifacts(objects), EXTERNALS)) == found


@pytest.mark.parametrize("source", [{"chart": "vllm"}, {"path": "services", "plugin": {"name": "aibrix-compile"}}])
def test_what_argo_cd_renders_itself_needs_no_folder(source: Object) -> None:
    objects = _valid()
    objects[APP]["spec"].update(sources=[source], ignoreDifferences=[{"group": "*", "kind": "*"}])
    assert unresolved(_artifacts(objects), EXTERNALS) == []


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ({"key": "app", "operator": "In", "values": ["chat"]}, True),
        ({"key": "app", "operator": "In", "values": ["x"]}, False),
        ({"key": "app", "operator": "NotIn", "values": ["chat"]}, False),
        ({"key": "none", "operator": "NotIn", "values": ["x"]}, True),
        ({"key": "app", "operator": "Exists"}, True),
        ({"key": "none", "operator": "Exists"}, False),
        ({"key": "none", "operator": "DoesNotExist"}, True),
        ({"key": "app", "operator": "DoesNotExist"}, False),
    ],
)
def test_expressions_of_selectors(expression: Object, holds: bool) -> None:
    objects = _valid()
    objects[BUDGET]["spec"]["selector"] = {"matchExpressions": [expression]}
    assert (unresolved(_artifacts(objects), EXTERNALS) == []) is holds


def _fields(value: Any, path: Path = ()) -> list[Path]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, inner in pairs for found in _fields(inner, (*path, key)))]


@pytest.mark.parametrize(
    "junk", [None, 5, True, "", "x", [], {}, [1], [[]], {"a": 1}, [{"a": []}], [{"name": {}}]], ids=repr
)
def test_no_shape_makes_it_raise(junk: Any) -> None:
    """A template can put anything anywhere. Only kind, name and namespace are promised."""
    for number, value in enumerate(_valid()):
        for path in _fields(value):
            if len(path) > 1 and path[:2] not in (("metadata", "name"), ("metadata", "namespace")):
                objects = _valid()
                _at(objects[number], path[:-1])[path[-1]] = junk
                unresolved(_artifacts(objects), EXTERNALS)
