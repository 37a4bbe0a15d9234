"""Whole models: fetched into a folder, resumable, verified, with progress. Shapes of requests and answers are AIBrix's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from aibrix_runtime.errors import Failed
from aibrix_runtime.fetch import Meta, Places, opened
from aibrix_runtime.fetch.pull import pull
from aibrix_runtime.fetch.uris import NAME, Uri, allowed, parse

_TAKEN = (".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken")
"""What engines read of a model. Pickles and code are not among it."""
MANIFEST = ".aibrix-model.json"


@dataclass(slots=True)
class Model:
    """One download. `state`: downloading, downloaded or failed."""

    uri: Uri
    folder: Path
    state: str = "downloading"
    bytes: int = 0
    total: int = 0
    message: str = ""
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def card(self) -> dict[str, object]:
        return {
            "model_name": self.folder.name,
            "model_root_path": str(self.folder),
            "source": str(self.uri),
            "model_status": self.state,
            "bytes": self.bytes,
            "total": self.total,
            **({"message": self.message} if self.message else {}),
        }


class Models:
    """Downloads into `root`. What an earlier process has fetched is found again by its manifest."""

    def __init__(self, root: Path, allow: Iterable[str], places: Places, fetched: Callable[[int], None]) -> None:
        self._root, self.allow, self._places, self._fetched = root, tuple(allow), places, fetched
        self._models: dict[str, Model] = {}
        for path in sorted(root.glob(f"*/{MANIFEST}")):
            try:
                about = json.loads(path.read_bytes())
                size = int(about["bytes"])
                self._models[path.parent.name] = Model(parse(about["uri"]), path.parent, "downloaded", size, size)
            except (OSError, ValueError, KeyError, Failed):
                continue

    def download(self, uri_text: object, local_dir: object) -> Model:
        """Begins, or tells of one that has begun. Failed: bad_request, uri_not_allowed."""
        uri = parse(uri_text)
        allowed(uri, self.allow)
        name = uri.path.rpartition("/")[2] or uri.host
        if local_dir is not None:
            wanted = Path(str(local_dir))
            if wanted.parent != self._root or not NAME.fullmatch(wanted.name):
                raise Failed("bad_request", f"local_dir is a folder right below {self._root}")
            name = wanted.name
        found = self._models.get(name)
        if found and found.uri != uri:
            raise Failed("bad_request", f"{name} is {found.uri} already; choose another local_dir")
        if found is None or found.state == "failed":
            found = self._models[name] = Model(uri, self._root / name)
            found.task = asyncio.create_task(self._run(found))
        return found

    def cards(self) -> list[dict[str, object]]:
        return [model.card() for _, model in sorted(self._models.items())]

    async def _run(self, model: Model) -> None:
        try:
            await self._fetch(model)
            model.state = "downloaded"
        except Failed as error:
            model.state, model.message = "failed", f"{error.code}: {error.message}"
        except OSError as error:
            model.state, model.message = "failed", f"disk_full: {error}"

    async def _fetch(self, model: Model) -> None:
        source = opened(model.uri, None, self._places)
        sums: dict[str, str] = {}
        try:
            metas: dict[str, Meta] = {}
            for name in await source.names():
                if name.endswith(_TAKEN) and not name.startswith((".", "/")) and ".." not in name.split("/"):
                    meta = await source.head(name)
                    if meta is not None:
                        metas[name] = meta
            if not any(name.endswith(".safetensors") for name in metas):
                raise Failed("not_found", f"{model.uri} has no safetensors files")
            model.total = sum(meta.size for meta in metas.values())

            def progress(count: int, fresh: bool) -> None:
                model.bytes += count
                if fresh:
                    self._fetched(count)

            for name, meta in sorted(metas.items()):
                target = model.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.exists() and target.stat().st_size == meta.size:
                    model.bytes += meta.size
                    continue
                sums[name] = await pull(source, name, meta, target, progress)
        finally:
            await source.close()
        text = json.dumps({"uri": str(model.uri), "bytes": model.total, "sha256": sums}, indent=1)
        (model.folder / MANIFEST).write_text(text + "\n")
