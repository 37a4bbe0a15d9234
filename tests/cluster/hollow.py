"""A pod without processes, for what can not run here (671 billion parameters on sixteen GPUs): it says that it is ready.

A mock: it proves what the control plane does with emitted objects, never that their containers work. Pods are hollow in
namespaces that carry the label `LABEL`.
"""

import asyncio
from collections.abc import Awaitable, Callable

import httpx

from tests.cluster.network import Network
from tests.cluster.unit import now
from tests.cluster.watch import Object

LABEL = "test.aibrix.ai/hollow"


class HollowPod:
    """The same surface as `Pod`, as far as a node needs it."""

    def __init__(self, api: httpx.AsyncClient, value: Object, network: Network) -> None:
        self._api, self.value, self._address = api, value, network.address()
        self._deleted = asyncio.Event()

    def update(self, value: Object) -> None:
        self.value = value
        if "deletionTimestamp" in value["metadata"]:
            self._deleted.set()

    async def live(self) -> None:
        meta, began = self.value["metadata"], now()
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        done = self.value["spec"].get("restartPolicy") != "Always"  # a Job's pod: ended at once, well
        state: Object = {"running": {"startedAt": began}}
        if done:
            state = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": began, "finishedAt": began}}
        names = ("Initialized", "ContainersReady", "Ready")
        status = {
            "phase": "Succeeded" if done else "Running",
            "hostIP": self.value["status"].get("hostIP"),
            "podIP": self._address,
            "podIPs": [{"ip": self._address}],
            "startTime": began,
            "conditions": [{"type": name, "status": "True", "lastTransitionTime": began} for name in names],
            "containerStatuses": [
                {
                    "name": one["name"],
                    "image": one["image"],
                    "imageID": "",
                    "ready": not done,
                    "started": not done,
                    "restartCount": 0,
                    "state": state,
                }
                for one in self.value["spec"]["containers"]
            ],
        }
        kind = {"Content-Type": "application/strategic-merge-patch+json"}
        await self._until(lambda: self._api.patch(f"{path}/status", json={"status": status}, headers=kind))
        await self._deleted.wait()
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": meta["uid"]}}
        await self._until(lambda: self._api.request("DELETE", path, json=body))

    async def _until(self, act: Callable[[], Awaitable[httpx.Response]]) -> None:
        """Again while the API server is away."""
        while True:
            try:
                if (await act()).status_code < 500:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(1)
