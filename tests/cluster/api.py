"""The API server as tests and tools use it: any kind by name, server-side apply, waiting.

Kinds are found by discovery, so custom resources work like built-in ones.
"""

import json
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.watch import Object


class Refused(Exception):
    """The API server said no; `code` is HTTP's, `str` its own message."""

    def __init__(self, answer: httpx.Response) -> None:
        self.code = answer.status_code
        try:
            text = answer.json().get("message", answer.text)
        except ValueError:
            text = answer.text
        super().__init__(text)


class Api:
    """`http` is a client whose base is the API server."""

    def __init__(self, http: httpx.Client) -> None:
        self._http, self._known = http, dict[tuple[str, str], tuple[str, bool]]()

    @classmethod
    def through(cls, socket: Path, token: str) -> "Api":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        transport = httpx.HTTPTransport(uds=str(socket), verify=context)
        headers = {"Authorization": f"Bearer {token}"}
        return cls(httpx.Client(transport=transport, base_url="https://cluster", headers=headers, timeout=30))

    # --- one object

    def apply(self, value: Object, manager: str, *, force: bool = False, dry_run: bool = False) -> Object:
        """Server-side apply with strict field validation, as Argo CD does it; `force` takes fields from others."""
        query = {"fieldManager": manager, "fieldValidation": "Strict", "force": str(force).lower()}
        query |= {"dryRun": "All"} if dry_run else {}
        kind = {"Content-Type": "application/apply-patch+yaml"}
        return self._do("PATCH", self.path_of(value), params=query, content=json.dumps(value), headers=kind)

    def create(self, value: Object) -> Object:
        path = self.path_of(value).rpartition("/")[0] if "name" in value["metadata"] else self.path_of(value)
        return self._do("POST", path, params={"fieldValidation": "Strict"}, json=value)

    def get(self, kind: str, name: str, namespace: str = "", api: str = "") -> Object:
        return self._do("GET", f"{self._folder(kind, namespace, api)}/{name}")

    def read_back(self, value: Object) -> Object:
        return self._do("GET", self.path_of(value))

    def list(self, kind: str, namespace: str = "", selector: str = "", api: str = "") -> "list[Object]":
        query = {"labelSelector": selector} if selector else {}
        found: list[Object] = self._do("GET", self._folder(kind, namespace, api), params=query)["items"]
        return found

    def delete(self, value: Object, *, grace: int | None = None) -> None:
        body = {"propagationPolicy": "Foreground"} | ({} if grace is None else {"gracePeriodSeconds": grace})
        self._do("DELETE", self.path_of(value), json=body)

    def patch(self, value: Object, change: Object, *, subresource: str = "", manager: str = "somebody") -> Object:
        path = self.path_of(value) + (f"/{subresource}" if subresource else "")
        kind = {"Content-Type": "application/merge-patch+json"}
        return self._do("PATCH", path, params={"fieldManager": manager}, json=change, headers=kind)

    def scale(self, value: Object, replicas: int, manager: str) -> None:
        """Through the `scale` subresource, as a scaler does it."""
        self.patch(value, {"spec": {"replicas": replicas}}, subresource="scale", manager=manager)

    # --- discovery

    def path_of(self, value: Object) -> str:
        meta = value["metadata"]
        folder = self._folder(value["kind"], meta.get("namespace", ""), value["apiVersion"])
        return f"{folder}/{meta['name']}" if "name" in meta else folder

    def _folder(self, kind: str, namespace: str, api: str) -> str:
        version = api or _VERSIONS.get(kind, "v1")
        if (version, kind) not in self._known:
            for one in self._do("GET", _root(version))["resources"]:
                if "/" not in one["name"]:
                    self._known[version, one["kind"]] = (one["name"], one["namespaced"])
        plural, namespaced = self._known[version, kind]
        inside = f"/namespaces/{namespace or 'default'}" if namespaced and namespace != ALL else ""
        return f"{_root(version)}{inside}/{plural}"

    def namespaced_kinds(self) -> Sequence[tuple[str, str]]:
        """(group/version, kind) of everything that can be listed in a namespace."""
        groups = self._do("GET", "/apis")["groups"]
        versions = ["v1", *(group["preferredVersion"]["groupVersion"] for group in groups)]
        return [
            (version, one["kind"])
            for version in versions
            for one in self._do("GET", _root(version))["resources"]
            if one["namespaced"] and "list" in one["verbs"] and "/" not in one["name"]
        ]

    def forget(self) -> None:
        """After kinds were added or removed."""
        self._known.clear()

    def _do(self, method: str, path: str, **more: Any) -> Object:
        for _ in range(20):
            answer = self._http.request(method, path, **more)
            if answer.status_code != 429:  # a kind whose definition has just changed: its storage is made anew
                break
            time.sleep(min(1.0, float(answer.headers.get("Retry-After", 1))))
        if answer.is_error:
            raise Refused(answer)
        found: Object = answer.json()
        return found


ALL = "*"
"""In place of a namespace: all of them."""
_VERSIONS = {"Deployment": "apps/v1", "ReplicaSet": "apps/v1", "Job": "batch/v1", "Lease": "coordination.k8s.io/v1"}


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def wait(what: str, until: Callable[[], Any], seconds: float = 120) -> Any:
    """The first true value of `until`; the last false one is in the message of the TimeoutError."""
    deadline = time.monotonic() + seconds
    while True:
        value = until()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s; last seen: {value!r}")
        time.sleep(0.1)


def ready(pods: Iterable[Object]) -> list[str]:
    """Names of the pods that are ready and not leaving."""
    return [
        pod["metadata"]["name"]
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
        and any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))
    ]
