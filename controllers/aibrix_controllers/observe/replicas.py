"""What there is: pods, and what each of them says that it serves. Functions of objects and lines, no memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

SERVICE, ROLE, SERVE = "serving.aibrix.ai/service", "serving.aibrix.ai/role", "serve"
CONTAINER, PORT_NAME, PORT = "runtime", "runtime", 8080
Object = Mapping[str, Any]


class Held(NamedTuple):
    """An adapter that a replica announces."""

    digest: str
    uri: str
    rank: int


class Line(NamedTuple):
    """A replica's own word. `adapters` by name; `totals`: sums since the engine began, as far as it tells them."""

    ready: bool
    why: str
    incarnation: str
    in_flight: int
    adapters: Mapping[str, Held]
    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    totals: Mapping[str, float] = {}

    def without_load(self) -> Line:
        return self._replace(in_flight=0, running=0, waiting=0, kv_used=0.0, totals={})


class Replica(NamedTuple):
    """A pod. `engine`: ip:port of its engine, as pickers name it; `runtime`: of its sidecar, empty without one. `line` is None
    where it says nothing."""

    name: str
    service: str
    ip: str
    runtime: str
    ready: bool
    draining: bool
    line: Line | None = None

    @property
    def serves(self) -> bool:
        """Whether adapters may be placed on it and count there."""
        return self.ready and not self.draining and self.line is not None and self.line.ready


def replica(pod: Object) -> Replica | None:
    """None while it has no address, and when it has ended."""
    meta, status = pod["metadata"], pod.get("status", {})
    ip = status.get("podIP", "")
    if not ip or status.get("phase") in ("Succeeded", "Failed"):
        return None
    conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
    containers = (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
    ports = [port for one in containers if one["name"] == CONTAINER for port in one.get("ports", ())]
    number = next((port["containerPort"] for port in ports if port.get("name") == PORT_NAME), PORT if ports else 0)
    shown = f"[{ip}]" if ":" in ip else ip
    return Replica(
        meta["name"],
        meta["labels"].get(SERVICE, ""),
        ip,
        f"{shown}:{number}" if number else "",
        conditions.get("Ready") == "True",
        "deletionTimestamp" in meta,
    )


def line(data: Object, before: Line | None) -> Line:
    """From a line of the load stream; the list of adapters is in it only when it has changed. KeyError, TypeError."""
    rows = data.get("adapters")
    if rows is None:
        adapters = before.adapters if before else {}
    else:
        adapters = {row["name"]: Held(row["digest"], row.get("uri", ""), row["rank"]) for row in rows}
    return Line(
        data["engine"] == "ready" and not data["draining"],
        str(data.get("why", "")),
        str(data["incarnation"]),
        int(data["running"]) + int(data["waiting"]),
        adapters,
        int(data["running"]),
        int(data["waiting"]),
        float(data.get("kv_used", 0.0)),
        data.get("totals") or {},
    )
