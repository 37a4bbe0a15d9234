"""Which of several copies leads: by a Lease that the leader renews.

Clocks of machines differ, so another's Lease has expired when *we* have seen it unchanged for its whole duration. Who can not
renew in time stops leading before anybody else may begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aibrix_controllers.kube.api import Api, Away, Object, Refused
from aibrix_controllers.kube.watch import Note

DURATION_S, RENEW_S, GIVE_UP_S = 15, 2.0, 10.0
"""A Lease holds so long; it is renewed so often; who could not for so long stops. 5 s lie between it and its successor."""


class Leader:
    """`changed` is called when `leads` does."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,
        note: Note,
        changed: Callable[[], None],
        wall: Callable[[], float],
    ) -> None:
        """`wall`: seconds since 1970, for what people read."""
        self._api, self._name, self._identity, self._note, self._changed = api, name, identity, note, changed
        self._path, self._namespace, self._wall = (
            f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
            namespace,
            wall,
        )
        self.leads = False
        self._seen: tuple[str, float] = ("", 0.0)
        """The Lease's version, and since when it is unchanged."""
        self._renewed = 0.0

    async def run(self) -> None:
        """Until cancelled; then the Lease is given back."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                begun = loop.time()
                try:
                    async with asyncio.timeout(RENEW_S * 2):
                        await self._try(begun)
                except (Away, Refused, TimeoutError, KeyError, ValueError) as error:
                    if self.leads and loop.time() - self._renewed > GIVE_UP_S:
                        self._set(False, f"the Lease could not be renewed: {error or type(error).__name__}")
                await asyncio.sleep(max(0.0, RENEW_S - (loop.time() - begun)))
        finally:
            if self.leads:
                self._set(False, "it stops")
                await asyncio.shield(self._give_back())

    async def _try(self, now: float) -> None:
        try:
            lease: Any = await self._api.get(f"{self._path}/{self._name}")
        except Refused as error:
            if error.status != 404:
                raise
            meta = {"name": self._name, "namespace": self._namespace}
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": meta,
                "spec": self._spec(0, True),
            }
            await self._api.post(self._path, body)
            self._won(now)
            return
        spec, version = lease.get("spec", {}), str(lease["metadata"]["resourceVersion"])
        if version != self._seen[0]:
            self._seen = version, now
        holder = spec.get("holderIdentity") or ""
        ours = holder == self._identity
        free = not holder or now - self._seen[1] > float(spec.get("leaseDurationSeconds") or DURATION_S)
        if not ours and not free:
            self._set(False, f"{holder} leads")
            return
        changes = int(spec.get("leaseTransitions") or 0) + (not ours)
        fresh = self._spec(changes, not ours) if not ours else {**spec, **self._spec(changes, False)}
        try:  # a whole object with its version: of two that try, one is refused
            await self._api.put(f"{self._path}/{self._name}", {**lease, "spec": fresh})
        except Refused as error:
            if error.status == 409:
                return
            raise
        self._won(now)

    def _spec(self, changes: int, fresh: bool) -> dict[str, Any]:
        now = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        found = {"holderIdentity": self._identity, "leaseDurationSeconds": DURATION_S, "renewTime": now}
        return found | {"leaseTransitions": changes} | ({"acquireTime": now} if fresh else {})

    async def _give_back(self) -> None:
        try:
            lease: Object = await self._api.get(f"{self._path}/{self._name}")
            if lease["spec"].get("holderIdentity") == self._identity:
                await self._api.put(
                    f"{self._path}/{self._name}", {**lease, "spec": {**lease["spec"], "holderIdentity": ""}}
                )
        except (Away, Refused, KeyError):
            pass  # it expires

    def _won(self, now: float) -> None:
        self._renewed = now
        self._set(True, "")

    def _set(self, leads: bool, why: str) -> None:
        if leads != self.leads:
            self.leads = leads
            self._note("leads" if leads else "follows", identity=self._identity, why=why)
            self._changed()
