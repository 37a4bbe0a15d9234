"""A pod's life on a node: address, volumes, init containers in order, containers, status, end.

It follows the kubelet: a native sidecar (an init container that restarts always) must have started before the next one
begins and is stopped after the others; the deletion of a pod runs preStop hooks within the grace period and is confirmed
only when every process is gone.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.cluster.container import Setting
from tests.cluster.network import DNS, Link, Network
from tests.cluster.unit import Unit, now
from tests.cluster.volumes import NotYet, Volumes
from tests.cluster.watch import Object

_FACES = {"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n"}  # as most images: no name for uid 1000


class Pod:
    """Run `live` as a task; call `update` with each new version of the object."""

    def __init__(
        self,
        api: httpx.AsyncClient,
        value: Object,
        network: Network,
        folder: Path,
        volumes: Volumes,
        event: Callable[[Object, str, str, str], None],
    ) -> None:
        self._api, self.value, self._network, self._folder, self._volumes = api, value, network, folder, volumes
        self._event = event
        self.link: Link | None = None
        self.units: list[Unit] = []
        self._inits: list[Unit] = []
        self._dirty, self._deleted = asyncio.Event(), asyncio.Event()
        self._started_at, self._initialized, self._message = now(), False, ""
        self._sent: Object = {}
        self._overruled = False

    def update(self, value: Object) -> None:
        self.value = value
        if _verdicts(value["status"]) != _verdicts(self._sent):
            self._overruled = True  # a controller that took the node for lost has written into our status: say it again
        if "deletionTimestamp" in value["metadata"]:
            self._deleted.set()
        self._dirty.set()

    @property
    def sidecars(self) -> list[Unit]:
        return [unit for unit in self._inits if unit.spec.get("restartPolicy") == "Always"]

    @property
    def path(self) -> str:
        meta = self.value["metadata"]
        return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"

    async def live(self) -> None:
        """From the scheduler's word until nothing of the pod is left here."""
        tasks: list[asyncio.Task[None]] = []
        reporting = asyncio.create_task(self._report())
        try:
            self.link = await self._network.join()
            folders = await self._until_ready(tasks)
            if folders is not None:
                self._make(folders)
                tasks.append(asyncio.create_task(self._run(tasks)))
                await self._deleted.wait()
            await self._end()
        finally:
            for task in tasks:
                task.cancel()
            reporting.cancel()
            await asyncio.gather(*tasks, reporting, return_exceptions=True)
            for unit in (*self._inits, *self.units):
                await unit.prober.close()
            if self.link is not None:
                await self.link.leave()
            await self._volumes.remove()

    async def _until_ready(self, tasks: list[asyncio.Task[None]]) -> dict[str, Path] | None:
        """Folders of all volumes, or None if the pod is deleted before they are there."""
        self._etc()
        while not self._deleted.is_set():
            try:
                folders = await self._volumes.prepare(self.value)
            except NotYet as error:
                if str(error) != self._message:
                    self._message = str(error)
                    self._event(self.value, "Warning", "FailedMount", self._message)
                    self._dirty.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await self._deleted.wait()
            else:
                tasks.append(asyncio.create_task(self._refresh()))
                return folders
        return None

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(2)  # about 60 s in a real node
            with contextlib.suppress(NotYet):
                await self._volumes.refresh(self.value)

    def _etc(self) -> None:
        assert self.link is not None
        meta, spec, etc = self.value["metadata"], self.value["spec"], self._folder / "etc"
        etc.mkdir(parents=True, exist_ok=True)
        domain = "svc.cluster.local"
        search = f"{meta['namespace']}.{domain} {domain} cluster.local"
        host = spec.get("hostname") or meta["name"]
        hosts = [f"127.0.0.1 localhost\n{self.link.address} {host}\n"]
        if "subdomain" in spec:
            hosts.append(f"{self.link.address} {host}.{spec['subdomain']}.{meta['namespace']}.{domain}\n")
        resolv = f"search {search}\nnameserver {DNS}\noptions ndots:5\n"
        for name, text in {**_FACES, "hosts": "".join(hosts), "resolv.conf": resolv, "hostname": f"{host}\n"}.items():
            (etc / name).write_text(text)

    def _make(self, folders: dict[str, Path]) -> None:
        assert self.link is not None
        link = self.link

        def setting(spec: Object) -> Setting:
            env = self._volumes.environment(self.value, spec, link.address)
            return Setting(self.value, link.pid, env, folders, self._folder / "etc")

        def unit(spec: Object) -> Unit:
            def event(kind: str, reason: str, message: str) -> None:
                self._event(self.value, kind, reason, message)

            return Unit(spec, setting, link.address, self._folder / "logs", self._dirty.set, event)

        self._inits = [unit(spec) for spec in self.value["spec"].get("initContainers", ())]
        self.units = [unit(spec) for spec in self.value["spec"]["containers"]]

    async def _run(self, tasks: list[asyncio.Task[None]]) -> None:
        """Init containers one after the other, then all containers until they end."""
        restart = self.value["spec"].get("restartPolicy", "Always")
        for init in self._inits:
            if self._deleted.is_set():
                return
            if init in self.sidecars:
                tasks.append(asyncio.create_task(init.live("Always")))
                while not (init.started or self._deleted.is_set()):
                    await asyncio.sleep(0.05)
                continue
            await init.live("OnFailure" if restart != "Never" else "Never")
            if init.exit_code:
                return
        self._initialized = True
        self._dirty.set()
        main = [asyncio.create_task(unit.live(restart)) for unit in self.units]
        tasks += main
        await asyncio.gather(*main)
        await asyncio.gather(*(unit.stop(5) for unit in self.sidecars))
        self._dirty.set()

    async def _end(self) -> None:
        """Stop what runs, within the grace period, and tell the API server that it is gone."""
        grace = float(self.value["metadata"].get("deletionGracePeriodSeconds", 30))
        deadline = time.monotonic() + grace
        others = [unit for unit in (*self._inits, *self.units) if unit not in self.sidecars]
        await asyncio.gather(*(unit.stop(grace) for unit in others))
        for unit in reversed(self.sidecars):
            await unit.stop(max(2.0, deadline - time.monotonic()))
        await self._send()
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.value["metadata"]["uid"]}}
        while True:
            try:
                answer = await self._api.request("DELETE", self.path, json=body)
                if answer.status_code < 500:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(1)

    # --- status

    async def _report(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if not await self._send():
                await asyncio.sleep(1)  # the API server is away; what it is told then is the state of then
                self._dirty.set()

    async def _send(self) -> bool:
        status = self._status()
        if status == self._sent and not self._overruled:
            return True
        try:
            answer = await self._api.patch(
                f"{self.path}/status",
                json={"metadata": {"uid": self.value["metadata"]["uid"]}, "status": status},
                headers={"Content-Type": "application/strategic-merge-patch+json"},
            )
        except httpx.HTTPError:
            return False
        if answer.is_success:
            self._sent, self._overruled = status, False
        return answer.status_code < 500

    def _status(self) -> Object:
        spec, before = self.value["spec"], {one["type"]: one for one in self._sent.get("conditions", ())}
        if not self.units:  # waiting for volumes
            waiting = {"waiting": {"reason": "ContainerCreating", "message": self._message}}
            rows = [
                {
                    "name": one["name"],
                    "image": one["image"],
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": waiting,
                }
                for one in spec["containers"]
            ]
        else:
            rows = [unit.status() for unit in self.units]
        ready = bool(self.units) and all(unit.ready for unit in (*self.units, *self.sidecars))
        verdicts = {
            "PodReadyToStartContainers": self.link is not None,
            "Initialized": self._initialized or not spec.get("initContainers"),
            "ContainersReady": ready,
            "Ready": ready,
        }
        conditions = []
        for name, good in verdicts.items():
            text = "True" if good else "False"
            old = before.get(name, {})
            since = old["lastTransitionTime"] if old.get("status") == text else now()
            conditions.append({"type": name, "status": text, "lastTransitionTime": since})
        status: Object = {
            "phase": self._phase(),
            "hostIP": self.value["status"].get("hostIP"),
            "startTime": self._started_at,
            "conditions": conditions,
            "containerStatuses": rows,
            "initContainerStatuses": [unit.status() for unit in self._inits],
        }
        if self.link is not None:
            status |= {"podIP": self.link.address, "podIPs": [{"ip": self.link.address}]}
        return status

    def _phase(self) -> str:
        ends = [unit.state.get("terminated") for unit in self.units]
        failed = any(u.exit_code and "terminated" in u.state for u in self._inits if u not in self.sidecars)
        never = self.value["spec"].get("restartPolicy") == "Never"
        if failed and never:
            return "Failed"
        if not self.units or not self._initialized:
            return "Pending"
        if all(ends):
            return "Failed" if any(end["exitCode"] for end in ends if end) else "Succeeded"
        return "Running"


def _verdicts(status: Object) -> dict[str, str]:
    """What a status says of the conditions that a node decides about."""
    ours = ("Initialized", "ContainersReady", "Ready")
    return {one["type"]: one["status"] for one in status.get("conditions", ()) if one["type"] in ours}
