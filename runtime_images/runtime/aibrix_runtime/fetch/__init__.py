"""Where artifacts come from. One small seam, `Source`: what there is, and bytes of it; everything else is the same for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from aibrix_runtime.config import S3
from aibrix_runtime.errors import Failed
from aibrix_runtime.fetch.uris import Uri


class Meta(NamedTuple):
    """`tag` changes when the content does."""

    size: int
    tag: str


class Source(Protocol):
    """A folder somewhere. Failed: not_found, denied, source_failed."""

    async def head(self, name: str) -> Meta | None:
        """None: there is no such file."""

    async def read(self, name: str, begin: int, end: int, tag: str) -> bytes:
        """Bytes [begin, end) of the file that still has this tag."""

    async def names(self) -> list[str]:
        """Files of the folder, for models and for messages; at most some thousands."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Places:
    """What the pod has: object stores, claims that are mounted, Secrets as folders, a folder for what a child process fetches."""

    s3: S3 | None
    claims: Mapping[str, Path]
    secrets: Path
    staging: Path


class Secret(NamedTuple):
    """A reference: an entry of a Secret."""

    name: str
    key: str


def opened(uri: Uri, secret: Secret | None, places: Places) -> Source:
    """The source behind a uri that was allowed. Each kind is imported when it is needed: clients of object stores are large."""
    if uri.scheme in ("s3", "gs"):
        from aibrix_runtime.fetch.objects import ObjectStore

        return ObjectStore(uri, _entries(secret, places), secret, places.s3)
    if uri.scheme == "https":
        from aibrix_runtime.fetch.https import Web

        return Web(uri, _entry(secret, places), secret.name if secret else "")
    if uri.scheme == "hf":
        from aibrix_runtime.fetch.hub import Hub

        return Hub(uri, _entry(secret, places), places.staging)
    from aibrix_runtime.fetch.files import Folder

    if uri.scheme == "pvc":
        if uri.host not in places.claims:
            raise Failed("not_found", f"claim {uri.host} is not mounted in this pod; its adapters need a rollout")
        return Folder(places.claims[uri.host], uri.path)
    return Folder(Path("/"), uri.path)


def _entries(secret: Secret | None, places: Places) -> dict[str, str]:
    """All entries of a Secret, as the kubelet mounts them."""
    if secret is None:
        return {}
    folder = places.secrets / secret.name
    found = {}
    try:
        for path in folder.iterdir():
            if not path.name.startswith("..") and path.is_file():
                found[path.name] = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failed("denied", f"Secret {secret.name} can not be read: {error}") from None
    return found


def _entry(secret: Secret | None, places: Places) -> str:
    if secret is None:
        return ""
    found = _entries(secret, places)
    if secret.key not in found:
        raise Failed("denied", f"Secret {secret.name} has no entry {secret.key}")
    return found[secret.key]
