"""Replicas from Kubernetes: the pods of each service, listed once and then watched.

Why it exists: a pod is a replica from the moment it has an address, drains from the moment it is deleted, and is another engine
when its container was started again; a Service's endpoints say none of that. While the API server is away, what is known
stays: replicas do not die with it, and the looks at each engine go on.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson

from aibrix_controllers.picker.config import Config
from aibrix_controllers.picker.observe.fleet import Fleet, Replica
from aibrix_controllers.picker.observe.http import Answer, Connection

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SERVICE, POOL, ROLE = "serving.aibrix.ai/service", "serving.aibrix.ai/pool", "serving.aibrix.ai/role"
ENGINE = "engine"
"""The container whose restarts empty the KV cache."""
PAGE = 100
"""Pods in one answer of a list: reading it must not hold requests up."""
LIST_BYTES = 64 << 20
LINE_BYTES = 4 << 20
"""Of one pod; etcd takes 1.5 MiB."""
LIST_S, WATCH_S, SLACK_S = 30.0, 60, 15.0
"""Bounds of a page of a list, and of a watch: the server ends it, or SLACK_S later we do, so that a connection that died
without a word costs a minute at most."""
PERIOD_S = 1.0
"""Between two looks at the configuration."""
BACK_OFF_S, BACK_OFF_MOST_S = 0.5, 15.0
Pod = Mapping[str, Any]


class Refused(Exception):
    """The API server answers something else than was asked for."""


class Expired(Exception):
    """The version to go on from is forgotten (410 Gone): list again."""


class Server:
    """The API server and how to speak to it. Token and CA are read anew for each use: both are rotated."""

    def __init__(self, host: str, port: int, account: Path = ACCOUNT, *, tls: bool = True) -> None:
        self._address, self._account, self._tls = (host, port), account, tls

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Server:
        """The one of the cluster in which this runs. LookupError outside of one."""
        return cls(environment["KUBERNETES_SERVICE_HOST"], int(environment["KUBERNETES_SERVICE_PORT"]))

    def connection(self) -> Connection:
        return Connection(*self._address, tls=self._context if self._tls else None)

    def headers(self) -> dict[str, str]:
        """OSError without a token."""
        token = (self._account / "token").read_text("ascii").strip()
        return {"authorization": f"Bearer {token}", "accept": "application/json"}

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self._account / "ca.crt"))


async def follow(config: Callable[[], Config], fleet: Fleet, server: Server, random: Callable[[], float]) -> None:
    """Watches the namespaces of the configuration's services, until cancelled. `random` in [0, 1) spreads the attempts of
    several pickers after an outage."""
    watching: dict[str, tuple[Mapping[str, int], asyncio.Task[None]]] = {}
    try:
        while True:
            wanted: dict[str, dict[str, int]] = {}
            for service in config().services.values():
                wanted.setdefault(service.namespace, {})[service.name] = service.port
            for namespace in [one for one, (ports, _) in watching.items() if ports != wanted.get(one)]:
                watching.pop(namespace)[1].cancel()
            for service_name in fleet.services() - config().services.keys():
                fleet.replace(service_name, {})
            for namespace, ports in wanted.items():
                if namespace not in watching:
                    task = asyncio.create_task(_Namespace(fleet, server, namespace, ports).run(random))
                    watching[namespace] = ports, task
            await asyncio.sleep(PERIOD_S)
    finally:
        for _, task in watching.values():
            task.cancel()


class _Namespace:
    """The pods of some services, in one namespace."""

    def __init__(self, fleet: Fleet, server: Server, namespace: str, ports: Mapping[str, int]) -> None:
        """`ports`: service -> the port of its engines."""
        self._fleet, self._server, self._namespace, self._ports = fleet, server, namespace, ports
        self._connection = server.connection()
        self._pods: dict[str, dict[str, tuple[str, Replica]]] = {name: {} for name in ports}
        """Service -> uid -> address and what it is."""
        self._path = f"/api/v1/namespaces/{namespace}/pods?"
        self._selector = f"{SERVICE} in ({','.join(sorted(ports))}),{ROLE}=serve"

    async def run(self, random: Callable[[], float]) -> None:
        loop, wait, said = asyncio.get_running_loop(), BACK_OFF_S, ""
        try:
            while True:
                try:
                    version = await self._list()
                    wait = BACK_OFF_S
                    if said:
                        self._fleet.note("kubernetes_back", namespace=self._namespace)
                        said = ""
                    while True:
                        begun = loop.time()
                        version = await self._watch(version)
                        await asyncio.sleep(begun + BACK_OFF_S - loop.time())  # after a watch that ended at once
                except Expired:
                    pass
                except Exception as error:  # whatever the server sends, this goes on with what it knows
                    why = str(error) or type(error).__name__
                    if why != said:
                        self._fleet.note("kubernetes_away", namespace=self._namespace, why=why)
                    said = why
                await asyncio.sleep(wait * (0.5 + random()))
                wait = min(2 * wait, BACK_OFF_MOST_S)
        finally:
            self._connection.close()

    async def _list(self) -> str:
        """Everything anew; the version to watch from. Expired, Refused and what a connection raises."""
        pods: dict[str, dict[str, tuple[str, Replica]]] = {name: {} for name in self._ports}
        after = ""
        while True:
            query = {"labelSelector": self._selector, "limit": str(PAGE)} | ({"continue": after} if after else {})
            async with asyncio.timeout(LIST_S):
                answer = await self._connection.get(self._path + urlencode(query), LIST_BYTES, self._server.headers())
            _check(answer)
            page = orjson.loads(answer.body)
            for pod in page["items"]:
                self._keep(pods, pod)
            after = page["metadata"].get("continue", "")
            if not after:
                break
        self._pods = pods
        for service in pods:
            self._publish(service)
        self._fleet.begun.set()
        return str(page["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> str:
        """Follows changes until the server ends it; the version to go on from. Raises like `_list`."""
        query = {"labelSelector": self._selector, "watch": "1", "allowWatchBookmarks": "true"}
        query |= {"resourceVersion": version, "timeoutSeconds": str(WATCH_S)}
        lines = self._connection.lines(self._path + urlencode(query), LINE_BYTES, self._server.headers())
        async with asyncio.timeout(WATCH_S + SLACK_S), aclosing(lines):
            async for answer in lines:
                _check(answer)
                if answer.body:
                    version = self._event(orjson.loads(answer.body))
        return version

    def _event(self, event: Mapping[str, Any]) -> str:
        kind, pod = event["type"], event["object"]
        if kind == "ERROR":
            raise Expired if pod.get("code") == 410 else Refused(str(pod.get("message"))[:200])
        if kind != "BOOKMARK":
            if kind == "DELETED":
                for pods in self._pods.values():
                    pods.pop(pod["metadata"]["uid"], None)
            else:
                self._keep(self._pods, pod)
            self._publish(pod["metadata"]["labels"][SERVICE])
        return str(pod["metadata"]["resourceVersion"])

    def _keep(self, pods: dict[str, dict[str, tuple[str, Replica]]], pod: Pod) -> None:
        service, uid = pod["metadata"]["labels"][SERVICE], pod["metadata"]["uid"]
        if found := replica(pod, self._ports[service]):
            pods[service][uid] = found
        else:
            pods[service].pop(uid, None)

    def _publish(self, service: str) -> None:
        """An address may already be a new pod's while the old one is still there: the living one has it."""
        found: dict[str, Replica] = {}
        for address, one in self._pods[service].values():
            if address not in found or found[address].draining:
                found[address] = one
        self._fleet.replace(service, found)


def replica(pod: Pod, port: int) -> tuple[str, Replica] | None:
    """A pod's address and what it is; None while it has no address, and when it has ended."""
    meta, status = pod["metadata"], pod.get("status", {})
    host = status.get("podIP", "")
    if not host or status.get("phase") in ("Succeeded", "Failed"):
        return None
    conditions = {one["type"]: one["status"] for one in status.get("conditions", ())}
    restarts = [one["restartCount"] for one in status.get("containerStatuses", ()) if one["name"] == ENGINE]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}", Replica(
        pool=meta["labels"].get(POOL, ""),
        ready=conditions.get("Ready") == "True",
        draining="deletionTimestamp" in meta,
        incarnation=f"{meta['uid']}/{restarts[0] if restarts else 0}",
    )


def _check(answer: Answer) -> None:
    if answer.status == 410:
        raise Expired
    if answer.status != 200:
        try:
            message = orjson.loads(answer.body)["message"]
        except (ValueError, TypeError, LookupError):
            message = ""
        raise Refused(f"the API server answers {answer.status} {message}"[:200].strip())
