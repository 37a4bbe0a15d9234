"""A pod's volumes as folders: emptyDir, ConfigMap, Secret, projected, downward API, claims. And the values of its env.

Files of ConfigMaps and Secrets are swapped in as the kubelet does it: a new folder, then one rename of the `..data` link, so
a reader sees all of the old or all of the new.
"""

import asyncio
import base64
import os
import shutil
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.watch import Object, Watched


class NotYet(Exception):
    """Something that the pod needs is not there; the kubelet says so and tries again."""


class Volumes:
    """Folders below `root`, one a volume. `config_maps`, `secrets` and `claims` follow the API server."""

    def __init__(
        self, api: httpx.AsyncClient, root: Path, config_maps: Watched, secrets: Watched, claims: Watched, store: Path
    ) -> None:
        self._api, self._root, self._store = api, root, store
        self._config_maps, self._secrets, self._claims = config_maps, secrets, claims
        self._written: dict[str, dict[str, bytes]] = {}

    async def prepare(self, pod: Object) -> dict[str, Path]:
        """Every volume of the pod by name; `NotYet` names the first that is missing."""
        return {volume["name"]: await self._folder(pod, volume) for volume in pod["spec"].get("volumes", ())}

    async def refresh(self, pod: Object) -> None:
        """Bring files up to date with their sources, as the kubelet does about once a minute."""
        for volume in pod["spec"].get("volumes", ()):
            if volume.keys() & {"configMap", "secret"}:
                await self._folder(pod, volume)

    async def _folder(self, pod: Object, volume: Object) -> Path:
        name, namespace = str(volume["name"]), str(pod["metadata"]["namespace"])
        folder = self._root / name
        if "persistentVolumeClaim" in volume:
            return self._claimed(namespace, volume["persistentVolumeClaim"]["claimName"])
        if "hostPath" in volume:
            raise NotYet(f'volume "{name}": hostPath is not offered here')
        folder.mkdir(parents=True, exist_ok=True)
        if "emptyDir" not in volume:
            sources = volume["projected"]["sources"] if "projected" in volume else [volume]
            files: dict[str, bytes] = {}
            for source in sources:
                files |= await self._files(pod, source)
            mode = next((one["defaultMode"] for one in volume.values() if "defaultMode" in one), 0o644)
            if self._written.get(name) != files:
                _swap(folder, files, mode)
                self._written[name] = files
        return folder

    def _claimed(self, namespace: str, claim: str) -> Path:
        found = self._claims.objects.get((namespace, claim))
        if found is None or found["status"].get("phase") != "Bound":
            raise NotYet(f'persistentvolumeclaim "{claim}" is not bound')
        folder = self._store / str(found["spec"]["volumeName"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    async def _files(self, pod: Object, source: Object) -> dict[str, bytes]:
        namespace = pod["metadata"]["namespace"]
        if "configMap" in source:
            one = source["configMap"]
            return _chosen(self.config_map(namespace, one["name"], one.get("optional", False)), one)
        if "secret" in source:
            one = source["secret"]
            named = one.get("secretName") or one["name"]
            return _chosen(self.secret(namespace, named, one.get("optional", False)), one)
        if "downwardAPI" in source:
            items = source["downwardAPI"]["items"]
            return {one["path"]: field(pod, one["fieldRef"]["fieldPath"]).encode() for one in items}
        if "serviceAccountToken" in source:
            return {source["serviceAccountToken"]["path"]: await self._token(pod, source["serviceAccountToken"])}
        raise NotYet(f"volume source {sorted(source)} is not offered here")

    async def _token(self, pod: Object, wanted: Object) -> bytes:
        account, namespace = pod["spec"]["serviceAccountName"], pod["metadata"]["namespace"]
        reference = {"kind": "Pod", "apiVersion": "v1", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        audiences = [wanted["audience"]] if "audience" in wanted else []
        spec = {"audiences": audiences, "expirationSeconds": wanted["expirationSeconds"], "boundObjectRef": reference}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        answer = await self._api.post(path, json=body)
        if answer.is_error:
            raise NotYet(f"no token for {account}: {answer.text}")
        return str(answer.json()["status"]["token"]).encode()

    def config_map(self, namespace: str, name: str, optional: bool) -> dict[str, bytes]:
        found = self._config_maps.objects.get((namespace, name))
        if found is None and not optional:
            raise NotYet(f'configmap "{name}" not found')
        found = found or {}
        binary = {name: base64.b64decode(text) for name, text in found.get("binaryData", {}).items()}
        return {name: text.encode() for name, text in found.get("data", {}).items()} | binary

    def secret(self, namespace: str, name: str, optional: bool) -> dict[str, bytes]:
        found = self._secrets.objects.get((namespace, name))
        if found is None and not optional:
            raise NotYet(f'secret "{name}" not found')
        return {name: base64.b64decode(text) for name, text in (found or {}).get("data", {}).items()}

    def environment(self, pod: Object, container: Object, address: str) -> dict[str, str]:
        """env and envFrom, `$(NAME)` expanded as Kubernetes does."""
        namespace, found = pod["metadata"]["namespace"], dict[str, str]()
        for source in container.get("envFrom", ()):
            for kind, read in (("configMapRef", self.config_map), ("secretRef", self.secret)):
                if one := source.get(kind):
                    values = read(namespace, one["name"], one.get("optional", False))
                    found |= {source.get("prefix", "") + name: text.decode() for name, text in values.items()}
        for one in container.get("env", ()):
            found[one["name"]] = expand(one.get("value", ""), found)
            if source := one.get("valueFrom"):
                value = self._value(pod, source, address)
                if value is None:
                    del found[one["name"]]
                else:
                    found[one["name"]] = value
        return found

    def _value(self, pod: Object, source: Object, address: str) -> str | None:
        namespace = pod["metadata"]["namespace"]
        if one := source.get("fieldRef"):
            return field(pod, one["fieldPath"], address)
        for kind, read in (("configMapKeyRef", self.config_map), ("secretKeyRef", self.secret)):
            if one := source.get(kind):
                values = read(namespace, one["name"], one.get("optional", False))
                if one["key"] not in values and not one.get("optional"):
                    raise NotYet(f"couldn't find key {one['key']} in {one['name']}")
                return values[one["key"]].decode() if one["key"] in values else None
        raise NotYet(f"env source {sorted(source)} is not offered here")

    async def remove(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self._root, True)


def expand(text: str, values: dict[str, str]) -> str:
    """`$(NAME)` by its value where it is known, `$$` by `$`."""
    parts, rest = "", text
    while "$" in rest:
        before, _, rest = rest.partition("$")
        parts += before
        name, end, after = rest[1:].partition(")") if rest.startswith("(") else ("", "", "")
        if rest.startswith("$"):
            parts, rest = parts + "$", rest[1:]
        elif end and name in values:
            parts, rest = parts + values[name], after
        else:
            parts += "$"
    return parts + rest


def field(pod: Object, path: str, address: str = "") -> str:
    """A field of the downward API."""
    known: dict[str, Any] = {
        "status.podIP": address,
        "status.podIPs": address,
        "status.hostIP": pod["status"]["hostIP"],
    }
    if path in known:
        return str(known[path])
    node: Any = pod
    head, bracket, inner = path.partition("['")
    for step in head.split("."):
        node = node.get(step, {})
    if bracket:
        return str(node.get(inner.removesuffix("']"), ""))
    if isinstance(node, dict):
        return "".join(f'{name}="{text}"\n' for name, text in sorted(node.items()))
    return str(node)


def _chosen(files: dict[str, bytes], source: Object) -> dict[str, bytes]:
    if "items" not in source:
        return files
    if missing := [one["key"] for one in source["items"] if one["key"] not in files]:
        raise NotYet(f"references non-existent config key: {missing[0]}")
    return {one["path"]: files[one["key"]] for one in source["items"]}


def _swap(folder: Path, files: dict[str, bytes], mode: int) -> None:
    fresh = folder / f"..{os.urandom(6).hex()}"
    for name, content in files.items():
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).write_bytes(content)
        (fresh / name).chmod(mode)
    fresh.mkdir(exist_ok=True)
    old = (folder / "..data").resolve() if (folder / "..data").exists() else None
    link = folder / "..next"
    link.symlink_to(fresh.name)
    link.replace(folder / "..data")
    for top in {name.split("/")[0] for name in files}:
        if not (folder / top).is_symlink():
            (folder / top).symlink_to(f"..data/{top}")
    for link in folder.iterdir():
        if not link.exists() and not link.name.startswith(".."):
            link.unlink()
    if old:
        shutil.rmtree(old)
