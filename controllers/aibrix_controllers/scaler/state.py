"""Pods and pages as the windows want them: functions of objects, no memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from aibrix_compile.policy.observation import PoolState
from aibrix_controllers.observe import replicas as seen
from aibrix_controllers.scaler.watched import Page, Replica, Said

Object = Mapping[str, Any]


class Pod(NamedTuple):
    """What the scaler needs to know of one; `born` in seconds since 1970, `leaving` for those that count no more."""

    name: str
    service: str
    address: str
    ready: bool
    born: float
    leaving: bool


def pod(one: Object) -> Pod:
    meta, status = one["metadata"], one.get("status", {})
    conditions = {row["type"]: row["status"] for row in status.get("conditions", ())}
    return Pod(
        meta["name"],
        meta["labels"].get(seen.SERVICE, ""),
        status.get("podIP", ""),
        conditions.get("Ready") == "True",
        datetime.fromisoformat(meta["creationTimestamp"]).timestamp(),
        "deletionTimestamp" in meta or status.get("phase") in ("Succeeded", "Failed"),
    )


class Pods:
    """Read when they change: a controller looks each second, and most are as they were."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[Object, Pod, seen.Replica | None]] = {}
        self._services: dict[str, list[Pod]] = {}

    def look(self, objects: Mapping[str, Object]) -> None:
        before, self._read, self._services = self._read, {}, {}
        for name, one in objects.items():
            row = before.get(name)
            if row is None or row[0] is not one:
                row = one, pod(one), seen.replica(one)
            self._read[name] = row
            self._services.setdefault(row[1].service, []).append(row[1])

    def of(self, service: str) -> Sequence[Pod]:
        return self._services.get(service, ())

    def reachable(self) -> list[seen.Replica]:
        """Those that have an address."""
        return [row[2] for row in self._read.values() if row[2]]


def replicas(pods: Iterable[Pod], targets: Sequence[str], lines: Mapping[str, seen.Line], wall: float) -> list[Replica]:
    """Of pods that are not leaving. A pod belongs to the target whose name its own begins with, the longest of several. `wall`:
    seconds since 1970."""
    found = []
    for one in pods:
        owners = [name for name in targets if one.name.startswith(f"{name}-")]
        if one.leaving or not owners:
            continue
        line = lines.get(one.name)
        said = Said(line.running, line.waiting, line.kv_used, line.incarnation, line.totals) if line else None
        age = max(0, int((wall - one.born) * 1e6))
        found.append(Replica(one.name, max(owners, key=len), one.address, one.ready, age, said))
    return found


def pools(found: Sequence[Replica], targets: Sequence[str], sizes: Mapping[str, int]) -> tuple[PoolState, ...]:
    """`sizes`: the live numbers."""
    states = []
    for name in targets:
        own = [one for one in found if one.target == name]
        starting = tuple(one.age for one in own if not one.ready)
        states.append(PoolState(sizes[name], sum(one.ready for one in own), starting))
    return tuple(states)


class Counted:
    """The last page of each picker, by service. What `observe.pickers` tells."""

    def __init__(self) -> None:
        self._pages: dict[str, tuple[int, dict[str, Page]]] = {}

    def told(self, address: str, page: Mapping[str, Any], now: int) -> bool:
        """Whether somebody waits who did not before."""
        before = self._pages.get(address, (0, {}))[1]
        found = {service: _page(str(page["instance"]), rows) for service, rows in page["services"].items()}
        self._pages[address] = now, found
        return any(one.held and not (before.get(name) and before[name].held) for name, one in found.items())

    def gone(self, address: str) -> None:
        self._pages.pop(address, None)

    def forget(self, now: int) -> None:
        """Who has been silent for 10 s knows no more what is in flight."""
        for address in [address for address, (heard, _) in self._pages.items() if now - heard > 10_000_000]:
            del self._pages[address]

    def of(self, service: str) -> dict[str, Page]:
        """Empty while no picker speaks."""
        return {address: found[service] for address, (_, found) in self._pages.items() if service in found}


def _page(instance: str, rows: Mapping[str, Any]) -> Page:
    flight: dict[str, int] = {}
    for address, count in rows["engines"].items():
        ip = str(address).rpartition(":")[0].strip("[]")
        flight[ip] = flight.get(ip, 0) + int(count)
    requests, prompt, cached, held = (int(rows[one]) for one in ("requests", "prompt_tokens", "cached_tokens", "held"))
    return Page(instance, requests, prompt, cached, held, flight)
