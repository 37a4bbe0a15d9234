"""Adapters on the disk: `<folder>/<name>/<key>/` has the two files, `<key>.json` beside it says where they came from.

Why it exists: a path must tell which content it has - the engine shows it for each adapter, and its prefix cache is keyed by it -
so that after any restart it is known what is loaded. And files of an adapter that the engine lists must never go: an engine that
reads an evicted adapter again from files that are gone exits. So the disk budget takes only what the engine does not name.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from aibrix_runtime.config import Adapters
from aibrix_runtime.errors import Failed
from aibrix_runtime.fetch import Meta, Places, Secret, Source, opened
from aibrix_runtime.fetch.pull import on_disk, pull
from aibrix_runtime.fetch.uris import NAME, Uri
from aibrix_runtime.precheck import CONFIG, CONFIG_BYTES, HEADER_BYTES, WEIGHTS

AT_ONCE = 4
"""Downloads; more of them wait."""
PARTS = ".part"
_OLD_S = 86400
_HEX = 32
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
InEngine = Callable[[], Set[str] | None]
"""Folders that the engine names: they stay. None: all of them, nobody knows yet."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An adapter's files. `cached`: they were there already."""

    path: Path
    digest: str
    bytes: int
    cached: bool


class About(NamedTuple):
    """What is known of a content. `rank` is 0 before it was checked."""

    digest: str
    uri: str
    rank: int


def key_of(digest: str) -> str:
    """The folder's name of a content."""
    return digest.removeprefix("sha256:")[:_HEX]


class Store:
    """`fetched` is told the bytes that came from sources."""

    def __init__(self, config: Adapters, places: Places, in_engine: InEngine, fetched: Callable[[int], None]) -> None:
        self.config, self._places, self._in_engine, self._fetched = config, places, in_engine, fetched
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._locks: dict[str, asyncio.Lock] = {}
        self._coming = 0
        """Bytes that downloads under way will still need."""

    def prepare(self) -> None:
        """At the start: parts that nobody has gone on with for a day go."""
        parts = self.config.folder / PARTS
        parts.mkdir(parents=True, exist_ok=True)
        for folder in parts.iterdir():
            if time.time() - folder.stat().st_mtime > _OLD_S:
                shutil.rmtree(folder, ignore_errors=True)

    def about(self, path: str) -> About | None:
        """Of what lies in a folder of ours; None if it is none."""
        found = _about(Path(path)) if Path(path).parent.parent == self.config.folder else {}
        if not found:
            return None
        rank = found.get("rank", 0)
        return About(str(found["digest"]), str(found.get("uri", "")), rank if isinstance(rank, int) else 0)

    def remember(self, path: Path, rank: int) -> None:
        """The rank that a check has found."""
        about = _about(path)
        if about and about.get("rank") != rank:
            _write(path.with_suffix(".json"), about | {"rank": rank})

    def used(self) -> int:
        """Bytes of all adapters and parts."""
        return sum(size for _, size, _ in self._rows()) + _size(self.config.folder / PARTS)

    async def obtain(self, name: str, uri: Uri, digest: str, secret: Secret | None) -> Kept:
        """Its files, fetched if need be. Failed: what sources raise, too_large, unusable, digest_mismatch, disk_full."""
        async with self._locks.setdefault(str(uri), asyncio.Lock()):
            if digest and (kept := self._there(self.config.folder / name / key_of(digest))):
                return kept
            async with self._gate:
                source = opened(uri, secret, self._places)
                try:
                    return await self._fetch(source, name, uri, digest)
                except OSError as error:
                    raise on_disk(error, self.config.folder / name) from None
                finally:
                    await source.close()

    def _there(self, path: Path) -> Kept | None:
        about = _about(path)
        if not about or not all((path / file).is_file() for file in (CONFIG, WEIGHTS)):
            return None
        os.utime(path.with_suffix(".json"))
        return Kept(path, str(about["digest"]), int(str(about["bytes"])), cached=True)

    async def _fetch(self, source: Source, name: str, uri: Uri, digest: str) -> Kept:
        metas = {file: await source.head(file) for file in (CONFIG, WEIGHTS)}
        if missing := next((file for file, meta in metas.items() if meta is None), ""):
            raise Failed("not_found", await _absent(source, uri, missing))
        there = {file: meta for file, meta in metas.items() if meta is not None}
        tags = {file: meta.tag for file, meta in there.items()}
        if not digest and (kept := self._unchanged(name, uri, tags)):
            return kept
        total = sum(meta.size for meta in there.values())
        if total > self.config.max_bytes or there[CONFIG].size > CONFIG_BYTES:
            raise Failed("too_large", f"{uri} has {total} bytes, and {self.config.max_bytes} are allowed")
        await _plausible(source, there[WEIGHTS], uri)
        part = self.config.folder / PARTS / hashlib.sha256(str(uri).encode()).hexdigest()[:_HEX]
        self._make_room(total - _size(part))
        self._coming += total
        try:
            part.mkdir(exist_ok=True)
            sums = {file: await pull(source, file, meta, part / file, self._came) for file, meta in there.items()}
        finally:
            self._coming -= total
        found = (
            f"sha256:{hashlib.sha256(''.join(f'{sums[file]}  {file}{chr(10)}' for file in sums).encode()).hexdigest()}"
        )
        if digest and found != digest:
            shutil.rmtree(part)
            raise Failed("digest_mismatch", f"{uri} has digest {found}, and {digest} is wanted")
        return self._adopt(part, name, {"uri": str(uri), "digest": found, "bytes": total, "tags": tags})

    def _came(self, count: int, fresh: bool) -> None:
        if fresh:
            self._fetched(count)

    def _adopt(self, part: Path, name: str, about: dict[str, object]) -> Kept:
        """The part becomes a whole one, in one step; a folder of that content is there already if it was fetched by another way."""
        path = self.config.folder / name / key_of(str(about["digest"]))
        path.parent.mkdir(exist_ok=True)
        if all((path / file).is_file() for file in (CONFIG, WEIGHTS)):
            shutil.rmtree(part)
        else:
            shutil.rmtree(path, ignore_errors=True)
            part.replace(path)
        _write(path.with_suffix(".json"), about)
        return Kept(path, str(about["digest"]), int(str(about["bytes"])), cached=False)

    def _unchanged(self, name: str, uri: Uri, tags: dict[str, str]) -> Kept | None:
        for path in sorted((self.config.folder / name).glob("*.json")):
            about = _about(path.with_suffix(""))
            if about.get("uri") == str(uri) and about.get("tags") == tags and all(tags.values()):
                return self._there(path.with_suffix(""))
        return None

    def _make_room(self, wanted: int) -> None:
        """Removes what was used longest ago, and never what the engine names."""
        rows = sorted(self._rows())
        free = self.config.disk_bytes - self._coming - sum(size for _, size, _ in rows)
        kept = self._in_engine()
        for _, size, path in rows:
            if free >= wanted:
                return
            if kept is not None and str(path) not in kept:
                path.with_suffix(".json").unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)
                free += size
        if free < wanted:
            message = f"{wanted} bytes are wanted, {max(0, free)} of {self.config.disk_bytes} are free"
            raise Failed("disk_full", f"{message}, and what the engine has loaded stays")

    def _rows(self) -> Iterator[tuple[float, int, Path]]:
        """Last use, bytes and folder of each content."""
        for path in self.config.folder.glob("*/*"):
            if path.is_dir() and NAME.fullmatch(path.parent.name):
                about = path.with_suffix(".json")
                yield about.stat().st_mtime if about.exists() else 0.0, _size(path), path


async def _absent(source: Source, uri: Uri, missing: str) -> str:
    names = [name for name in await source.names() if "/" not in name]
    if pickled := next((name for name in names if name.endswith(_PICKLES)), ""):
        return f"{uri} has {pickled} and no {missing}: pickled weights can run code and are not taken; save it as safetensors"
    there = f"there are {', '.join(names[:5])}" if names else "there is nothing"
    return f"{uri} has no {missing}; {there}"


async def _plausible(source: Source, meta: Meta, uri: Uri) -> None:
    """Eight bytes tell whether the rest is worth fetching."""
    if meta.size < 8:
        raise Failed("unusable", f"{uri}/{WEIGHTS} has {meta.size} bytes: it is no safetensors file")
    length = int.from_bytes(await source.read(WEIGHTS, 0, 8, meta.tag), "little")
    if length > min(HEADER_BYTES, meta.size - 8):
        raise Failed(
            "unusable", f"{uri}/{WEIGHTS} says that its header has {length} bytes: it is no adapter in safetensors"
        )


def _about(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.with_suffix(".json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"digest", "bytes"} <= found.keys() else {}


def _write(path: Path, about: Mapping[str, object]) -> None:
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(json.dumps(about))
    fresh.replace(path)


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except FileNotFoundError:  # it became a whole one meanwhile
            continue
    return total
