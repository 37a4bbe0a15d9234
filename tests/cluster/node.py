"""The node agent: what a kubelet is to the API server. Registers nodes, keeps their leases, runs the pods bound to them.

Nodes are a table, not machines: all of them run here, side by side. What a test does to a node or a pod (lose, cut, freeze,
kill, slow) it does through this module, so that every fault is one call and is undone by one call.
"""

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx

from tests.cluster.hollow import LABEL, HollowPod
from tests.cluster.network import Network
from tests.cluster.pod import Pod
from tests.cluster.unit import now
from tests.cluster.volumes import Volumes
from tests.cluster.watch import Key, Object, Watched, key

_LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_RENEW = 2.0  # seconds; 10 in a real node


@dataclass(frozen=True, slots=True)
class Spec:
    """One node: `gpus` of one vendor, which taint it, and the labels by which emitted pods choose it."""

    name: str
    address: str
    gpus: int = 0
    zone: str = "a"
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str], ...] = ()

    def value(self) -> Object:
        amounts = {"cpu": "96", "memory": "2000Gi", "ephemeral-storage": "8Ti", "pods": "250"}
        amounts |= {"nvidia.com/gpu": str(self.gpus)} if self.gpus else {}
        names = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.name,
                "labels": {**names, "topology.kubernetes.io/zone": self.zone, **self.labels},
            },
            "spec": {
                "taints": [
                    {"key": key, "value": value, "effect": "NoSchedule"}
                    for key, value in (*self.taints, *([("nvidia.com/gpu", "present")] if self.gpus else []))
                ]
            },
            "status": {
                "capacity": amounts,
                "allocatable": amounts,
                "addresses": [
                    {"type": "InternalIP", "address": self.address},
                    {"type": "Hostname", "address": self.name},
                ],
                "nodeInfo": dict.fromkeys(_INFO, "") | {"kubeletVersion": "v1.37.0", "operatingSystem": "linux"},
            },
        }


_INFO = (
    "architecture bootID containerRuntimeVersion kernelVersion kubeProxyVersion machineID osImage systemUUID".split()
)


class Nodes:
    """All nodes of the cluster and the pods on them."""

    def __init__(self, api: httpx.AsyncClient, network: Network, folder: Path, specs: list[Spec]) -> None:
        self._api, self._network, self._folder = api, network, folder
        self._specs = {spec.name: spec for spec in specs}
        self._lost: set[str] = set()
        self._pods = Watched(api, "/api/v1/pods", self._pod)
        self._namespaces = Watched(api, "/api/v1/namespaces")
        self._config_maps = Watched(api, "/api/v1/configmaps")
        self._secrets = Watched(api, "/api/v1/secrets")
        self._claims = Watched(api, "/api/v1/persistentvolumeclaims", self._claim)
        self.running: dict[Key, Pod | HollowPod] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._once: set[asyncio.Task[None]] = set()

    async def register(self) -> None:
        for spec in self._specs.values():
            answer = await self._api.post("/api/v1/nodes", json=spec.value())
            if answer.status_code not in (201, 409):
                raise RuntimeError(answer.text)
            await self._heartbeat(spec.name)
        await self._api.post("/apis/storage.k8s.io/v1/storageclasses", json=_STORAGE)

    async def run(self) -> None:
        sources = (self._namespaces, self._config_maps, self._secrets, self._claims)
        async with asyncio.TaskGroup() as group:
            for one in sources:
                group.create_task(one.run())
            for one in sources:
                await one.listed.wait()
            group.create_task(self._pods.run())
            for name in self._specs:
                group.create_task(self._beat(name))

    # --- what the API server hears

    async def _beat(self, name: str) -> None:
        while True:
            if name not in self._lost:
                with contextlib.suppress(httpx.HTTPError):
                    await self._heartbeat(name)
            await asyncio.sleep(_RENEW)

    async def _heartbeat(self, name: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": stamp}
        merge = {"Content-Type": "application/merge-patch+json"}
        answer = await self._api.patch(f"{_LEASE}/{name}", json={"spec": spec}, headers=merge)
        if answer.status_code == 404:
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}
            await self._api.post(_LEASE, json=body)
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now()}
        kind = {"Content-Type": "application/strategic-merge-patch+json"}
        await self._api.patch(f"/api/v1/nodes/{name}/status", json={"status": {"conditions": [ready]}}, headers=kind)

    def _event(self, pod: Object, kind: str, reason: str, message: str) -> None:
        meta = pod["metadata"]
        body = {
            "metadata": {"generateName": f"{meta['name']}.", "namespace": meta["namespace"]},
            "involvedObject": {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
            "type": kind,
            "reason": reason,
            "message": message[:1000],
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "source": {"component": "node-agent"},
        }
        self._later(self._post(f"/api/v1/namespaces/{meta['namespace']}/events", body))

    async def _post(self, path: str, body: Object) -> None:
        with contextlib.suppress(httpx.HTTPError):
            await self._api.post(path, json=body)

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._once.add(task)
        task.add_done_callback(self._once.discard)

    # --- pods

    def _pod(self, kind: str, value: Object) -> None:
        name, node = key(value), value["spec"].get("nodeName", "")
        if node not in self._specs or node in self._lost:
            return
        known = self.running.get(name)
        if known is not None and known.value["metadata"]["uid"] == value["metadata"]["uid"]:
            if kind == "DELETED":  # by force: nobody waited for the processes to end
                value = {
                    **value,
                    "metadata": {**value["metadata"], "deletionTimestamp": now(), "deletionGracePeriodSeconds": 1},
                }
            known.update(value)
        elif known is None and kind != "DELETED" and value["status"].get("phase") not in ("Succeeded", "Failed"):
            self._begin(name, value, self._specs[node])

    def _begin(self, name: Key, value: Object, spec: Spec) -> None:
        value = {**value, "status": {**value["status"], "hostIP": spec.address}}
        labels = self._namespaces.objects.get(("", name[0]), {"metadata": {}})["metadata"].get("labels", {})
        pod: Pod | HollowPod
        if LABEL in labels:
            pod = HollowPod(self._api, value, self._network)
        else:
            folder = self._folder / "pods" / f"{name[0]}_{name[1]}_{value['metadata']['uid'][:8]}"
            sources = (self._config_maps, self._secrets, self._claims)
            volumes = Volumes(self._api, folder / "volumes", *sources, self._folder / "claims")
            pod = Pod(self._api, value, self._network, folder, volumes, self._event)
        pod.update(value)
        self.running[name] = pod
        task = self._tasks[name] = asyncio.create_task(pod.live())
        task.add_done_callback(lambda task: self._gone(name, task))

    def _gone(self, name: Key, task: asyncio.Task[None]) -> None:
        self.running.pop(name, None)
        self._tasks.pop(name, None)
        if not task.cancelled() and (error := task.exception()):
            raise error  # asyncio prints it to the log: a mistake of the agent's own
        if (again := self._pods.objects.get(name)) is not None:
            self._pod("ADDED", again)  # the same name once more, as a StatefulSet does it

    # --- storage: a claim gets a folder here once a pod that needs it has a node

    def _claim(self, kind: str, value: Object) -> None:
        chosen = "volume.kubernetes.io/selected-node" in value["metadata"].get("annotations", {})
        if kind == "DELETED" and (volume := value["spec"].get("volumeName")):
            shutil.rmtree(self._folder / "claims" / volume, ignore_errors=True)
            self._later(self._unclaim(volume))
        elif chosen and "volumeName" not in value["spec"] and kind != "DELETED":
            self._later(self._provision(value))

    async def _provision(self, claim: Object) -> None:
        meta, spec = claim["metadata"], claim["spec"]
        name = f"pv-{meta['uid']}"
        reference = {
            "kind": "PersistentVolumeClaim",
            "apiVersion": "v1",
            **{k: meta[k] for k in ("name", "namespace", "uid")},
        }
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": spec["resources"]["requests"],
                "accessModes": spec["accessModes"],
                "storageClassName": spec["storageClassName"],
                "claimRef": reference,
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": f"/claims/{name}"},
            },
        }
        await self._post("/api/v1/persistentvolumes", volume)

    async def _unclaim(self, volume: str) -> None:
        with contextlib.suppress(httpx.HTTPError):
            await self._api.delete(f"/api/v1/persistentvolumes/{volume}")

    # --- what tests do

    def pod(self, namespace: str, name: str) -> Pod:
        found = self.running.get((namespace, name))
        if not isinstance(found, Pod):
            raise KeyError(f"no pod {namespace}/{name} runs here; there are {sorted(self.running)}")
        return found

    def kill(self, namespace: str, name: str, container: str = "") -> None:
        """SIGKILL to PID 1 of every container, or of one, which may be a sidecar."""
        pod = self.pod(namespace, name)
        chosen = [unit for unit in (*pod.units, *pod.sidecars) if unit.spec["name"] == container] or pod.units
        for unit in chosen:
            if unit.process is not None:
                unit.process.signal(signal.SIGKILL)

    def freeze(self, namespace: str, name: str, thaw: bool = False) -> None:
        for unit in self.pod(namespace, name).units:
            if unit.process is not None:
                unit.process.signal_all(signal.SIGCONT if thaw else signal.SIGSTOP)

    async def cut(self, namespace: str, name: str, mend: bool = False) -> None:
        link = self.pod(namespace, name).link
        assert link is not None
        await (link.mend() if mend else link.cut())

    def slow_readiness(self, namespace: str, name: str, seconds: float) -> None:
        for unit in self.pod(namespace, name).units:
            unit.prober.slow = seconds

    async def lose(self, node: str) -> None:
        """Power off: its processes die, its pods' links go dark, and the API server hears nothing more."""
        self._lost.add(node)
        for name, pod in list(self.running.items()):
            if pod.value["spec"]["nodeName"] == node:
                if isinstance(pod, Pod) and pod.link is not None:
                    await pod.link.cut()
                    self.kill(*name)
                self._tasks[name].cancel()

    async def restore(self, node: str) -> None:
        """Power on again: what is still bound to it starts anew, what was deleted meanwhile is confirmed."""
        self._lost.discard(node)
        await self._heartbeat(node)
        for value in list(self._pods.objects.values()):
            if value["spec"].get("nodeName") == node:
                self._pod("ADDED", value)


_STORAGE = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "test.aibrix.ai/folder",
    "volumeBindingMode": "WaitForFirstConsumer",
}
