"""Events on objects, for people who look at them with kubectl. The same one again counts up, and not more often than once a minute."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from aibrix_controllers.kube.api import Api, Away, Object, Refused

AGAIN_S, FORGET_S = 60.0, 600.0
_NOTE = 1024
_KNOWN = 1000


class Recorder:
    """`wall`: seconds since 1970."""

    def __init__(self, api: Api, reporter: str, instance: str, wall: Callable[[], float]) -> None:
        self._api, self._reporter, self._instance, self._wall = api, reporter, instance, wall
        self._told: dict[str, tuple[str, int, float]] = {}
        """What was said -> name of its event, how often, when."""

    async def tell(self, about: Object, kind: str, reason: str, action: str, note: str) -> None:
        """About an object; `kind` is Normal or Warning. What the API server does not take now is lost: status has it."""
        now, meta = self._wall(), about["metadata"]
        key = "\0".join((meta.get("uid", ""), kind, reason, note))
        name, count, when = self._told.get(key, ("", 0, 0.0))
        if name and now - when < AGAIN_S:
            return
        if len(self._told) > _KNOWN:
            self._told.clear()
        path = f"/apis/events.k8s.io/v1/namespaces/{meta['namespace']}/events"
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        try:
            if name and now - when < FORGET_S:
                series = {"count": count + 1, "lastObservedTime": stamp}
                await self._api.patch(f"{path}/{name}", {"series": series}, self._reporter)
                self._told[key] = name, count + 1, now
                return
            name = f"{meta['name']}.{sha256(f'{key}{now}'.encode()).hexdigest()[:16]}"
            await self._api.post(path, self._event(name, stamp, about, kind, reason, action, note))
            self._told[key] = name, 1, now
        except (Away, Refused):
            self._told.pop(key, None)

    def _event(
        self, name: str, stamp: str, about: Object, kind: str, reason: str, action: str, note: str
    ) -> dict[str, Any]:
        meta = about["metadata"]
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": meta["namespace"]},
            "eventTime": stamp,
            "reportingController": f"serving.aibrix.ai/{self._reporter}",
            "reportingInstance": self._instance[:128],
            "action": action,
            "reason": reason,
            "type": kind,
            "note": note[:_NOTE],
            "regarding": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta.get("uid", ""),
            },
        }
