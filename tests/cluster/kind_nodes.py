"""Nodes of a kind cluster that are no machines: hollow pods for every label that the examples choose nodes by.

kind offers as many machines as a laptop can carry, the examples ask for ten kinds. So the ones that only have to accept
pods are objects, kept alive from outside by the node agent of the process cluster. Two admission policies of the API
server itself sort pods: those of hollow namespaces go to hollow nodes and nowhere else; real ones ask for as little CPU
and memory as a laptop has, because a kubelet's own figures can not be faked as GPUs can.
`python -m tests.cluster.kind_nodes` ends when its standard input does.
"""

import argparse
import asyncio
import json
import os
import ssl
import sys
from pathlib import Path

import httpx

from tests.cluster import kubeconfig
from tests.cluster.hollow import LABEL, HollowPod
from tests.cluster.network import Network
from tests.cluster.node import Nodes, Spec
from tests.cluster.watch import Key, Object

OURS = ("kube-system", "local-path-storage", "kube-node-lease", "kube-public")  # kind's own pods stay as they are


class HollowNodes(Nodes):
    """Every pod is hollow. Claims get a folder that all real nodes see below /claims, so many can write to one."""

    async def register(self) -> None:
        for spec in self._specs.values():
            answer = await self._api.post("/api/v1/nodes", json=node(spec))
            if answer.status_code not in (201, 409):
                raise RuntimeError(answer.text)
        await super().register()  # finds them there, and makes the class of claims

    def _begin(self, name: Key, value: Object, spec: Spec) -> None:
        pod = HollowPod(self._api, {**value, "status": {**value["status"], "hostIP": spec.address}}, self._network)
        pod.update(pod.value)
        self.running[name] = pod
        task = self._tasks[name] = asyncio.create_task(pod.live())
        task.add_done_callback(lambda task: self._gone(name, task))

    async def _provision(self, claim: Object) -> None:
        folder = self._folder / "claims" / f"pv-{claim['metadata']['uid']}"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # containers write as users that this machine does not have
        await super()._provision(claim)


def node(spec: Spec) -> Object:
    """Without addresses: kindnet makes a route to each node's address, and ends where there is no way."""
    value = spec.value()
    value["metadata"]["labels"][LABEL] = "true"
    value["spec"]["taints"].append({"key": LABEL, "value": "true", "effect": "NoSchedule"})
    del value["status"]["addresses"]
    return value


# --- admission

_TO_HOLLOW_NODES = f"""[
  has(object.spec.nodeSelector)
    ? JSONPatch{{op: "add", path: "/spec/nodeSelector/" + jsonpatch.escapeKey("{LABEL}"), value: "true"}}
    : JSONPatch{{op: "add", path: "/spec/nodeSelector", value: {{"{LABEL}": "true"}}}},
  has(object.spec.tolerations)
    ? JSONPatch{{op: "add", path: "/spec/tolerations/-",
        value: Object.spec.tolerations{{key: "{LABEL}", operator: "Exists"}}}}
    : JSONPatch{{op: "add", path: "/spec/tolerations",
        value: [Object.spec.tolerations{{key: "{LABEL}", operator: "Exists"}}]}}
]"""
_SMALL = """Object{spec: Object.spec{containers:
  object.spec.containers.filter(c, has(c.resources) && has(c.resources.requests) && "memory" in c.resources.requests)
  .map(c,
    Object.spec.containers{name: c.name, resources: Object.spec.containers.resources{
      requests: {"cpu": "10m", "memory": "64Mi", "ephemeral-storage": "64Mi"}}})}}"""


def policies(version: str = "v1") -> list[Object]:
    """MutatingAdmissionPolicies and what puts them in force. `version` is v1 since Kubernetes 1.36."""
    hollow: Object = {"matchLabels": {LABEL: "true"}}
    real: Object = {
        "matchExpressions": [
            {"key": LABEL, "operator": "DoesNotExist"},
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": list(OURS)},
        ]
    }
    moved = {"patchType": "JSONPatch", "jsonPatch": {"expression": _TO_HOLLOW_NODES}}
    shrunk = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": _SMALL}}
    return [
        *_policy(version, "test-hollow-pods", hollow, moved),
        *_policy(version, "test-small-pods", real, shrunk),
    ]


def _policy(version: str, name: str, namespaces: Object, mutation: Object) -> list[Object]:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    head = {"apiVersion": f"admissionregistration.k8s.io/{version}", "metadata": {"name": name}}
    spec = {
        "matchConstraints": {"namespaceSelector": namespaces, "resourceRules": [rule]},
        "mutations": [mutation],
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
    }
    return [
        {**head, "kind": "MutatingAdmissionPolicy", "spec": spec},
        {**head, "kind": "MutatingAdmissionPolicyBinding", "spec": {"policyName": name}},
    ]


# --- the process


async def live(api: httpx.AsyncClient, folder: Path, specs: list[Spec]) -> None:
    """Register the nodes, say so, and be their kubelet."""
    nodes = HollowNodes(api, Network(), folder, specs)
    await nodes.register()
    print("ready", flush=True)
    await nodes.run()


async def _main(server: str, tls: ssl.SSLContext, folder: Path, specs: list[Spec]) -> None:
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    ended.add_done_callback(lambda _: os._exit(0))
    async with httpx.AsyncClient(base_url=server, verify=tls, timeout=10, trust_env=False) as api:
        await live(api, folder, specs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--nodes", type=json.loads, required=True)
    arguments = parser.parse_args()
    found = [Spec(**one) for one in arguments.nodes]
    asyncio.run(_main(*kubeconfig.read(arguments.kubeconfig), arguments.folder, found))
