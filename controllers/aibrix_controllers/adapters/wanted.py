"""What Git wants: the AdapterSets of each service as one. A function of objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aibrix_compile.policy import artifacts

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """One adapter. `home` is the set that it stands in."""

    name: str
    home: str
    uri: str
    digest: str
    rank: int
    everywhere: bool
    least: int
    priority: int
    secret: str
    key: str

    def request(self, drain_s: float) -> dict[str, Any]:
        """To a sidecar, that it shall have it."""
        body: dict[str, Any] = {"lora_name": self.name, "lora_path": self.uri, "drain_s": drain_s}
        body |= {"digest": self.digest} if self.digest else {}
        return body | ({"credentials": {"secret": self.secret, "key": self.key}} if self.secret else {})

    def is_it(self, digest: str, uri: str) -> bool:
        """Whether what a replica serves under this name is this."""
        return digest == self.digest if self.digest else uri == self.uri


@dataclass(frozen=True, slots=True)
class Service:
    """One service's adapters by name, and what its replicas have room for."""

    name: str
    selector: Mapping[str, str]
    max_loaded: int
    max_cached: int
    max_rank: int
    items: Mapping[str, Item]
    sets: tuple[str, ...]


def services(sets: Iterable[Object]) -> dict[str, Service]:
    """By name. An adapter that stands in two sets - it is moving - is the one of the set that changed last."""
    found: dict[str, list[Object]] = {}
    for one in sets:
        if "deletionTimestamp" not in one["metadata"]:
            found.setdefault(one["spec"]["service"], []).append(one)
    return {name: _service(name, rows) for name, rows in found.items()}


def _service(name: str, sets: list[Object]) -> Service:
    ordered = sorted(sets, key=lambda one: (_version(one), one["metadata"]["name"]))
    newest = ordered[-1]["spec"]
    items: dict[str, Item] = {}
    for one in ordered:
        for row in one["spec"].get("items", ()):
            items[row["name"]] = _item(row, one["metadata"]["name"])
    limits = newest["limits"]
    return Service(
        name,
        dict(newest["selector"]["matchLabels"]),
        limits["maxLoaded"],
        limits["maxCached"],
        limits["maxRank"],
        items,
        tuple(sorted(one["metadata"]["name"] for one in sets)),
    )


def _version(one: Object) -> int:
    """Of what is compared for order alone; a server that does not count keeps the order of names."""
    text = str(one["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0


def _uri(text: str) -> str:
    """As sidecars announce it; what is no address is theirs to refuse."""
    try:
        return str(artifacts.parse(text))
    except artifacts.Refused:
        return text


def _item(row: Object, home: str) -> Item:
    replicas, credentials = row.get("replicas", {}), row.get("credentials", {})
    return Item(
        name=row["name"],
        home=home,
        uri=_uri(row["uri"]),
        digest=row.get("digest", ""),
        rank=row.get("rank", 0),
        everywhere=bool(replicas.get("all")),
        least=int(replicas.get("min", 0)),
        priority=row.get("priority", 0),
        secret=credentials.get("secret", ""),
        key=credentials.get("key", ""),
    )
