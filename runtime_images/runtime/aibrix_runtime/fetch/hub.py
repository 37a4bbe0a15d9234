"""hf://, by huggingface_hub in a process of its own: its imports are larger than the sidecar, and end with the download.

As a program it reads what is wanted from standard input - a token on a command line could be seen - and writes one JSON line:
`python -m aibrix_runtime.fetch.hub`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from aibrix_runtime.errors import Failed
from aibrix_runtime.fetch import Meta
from aibrix_runtime.fetch.files import Folder
from aibrix_runtime.fetch.uris import Uri

SILENT_S = 1800
"""A child that takes longer is ended; what it has fetched stays, and the next one goes on from there."""


class Hub:
    """A repository, or a folder of one. `head` and `names` ask for what there is; files are fetched whole with the first read."""

    def __init__(self, uri: Uri, token: str, staging: Path) -> None:
        repo, _, self._folder = uri.path.partition("/")
        self._uri, self._token, self._repo = uri, token, f"{uri.host}/{repo}"
        self._staging = staging / hashlib.sha256(str(uri).encode()).hexdigest()[:32]
        self._listed: dict[str, Meta] | None = None
        self._fetched: set[str] = set()
        self._one = asyncio.Lock()

    async def head(self, name: str) -> Meta | None:
        return (await self._list()).get(name)

    async def read(self, name: str, begin: int, end: int, tag: str) -> bytes:
        async with self._one:
            if name not in self._fetched:
                await self._ask({"do": "fetch", "file": self._inside(name)})
                self._fetched.add(name)
        source = Folder(self._staging, "")
        meta = await source.head(self._inside(name))
        if meta is None:
            raise Failed("source_failed", f"{self._uri}: {name} was fetched and is not there")
        return await source.read(self._inside(name), begin, end, meta.tag)

    async def names(self) -> list[str]:
        return sorted(await self._list())

    async def close(self) -> None:
        """What was fetched has been copied, or is of no use."""
        for name in self._fetched:
            (self._staging / self._inside(name)).unlink(missing_ok=True)

    async def _list(self) -> dict[str, Meta]:
        if self._listed is None:
            rows = await self._ask({"do": "list"})
            below = f"{self._folder}/" if self._folder else ""
            self._listed = {
                name.removeprefix(below): Meta(size, tag) for name, size, tag in rows if name.startswith(below)
            }
        return self._listed

    def _inside(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name

    async def _ask(self, wanted: dict[str, str]) -> Any:
        wanted |= {
            "repo": self._repo,
            "revision": self._uri.revision,
            "folder": str(self._staging),
            "token": self._token,
        }
        home = {"HF_HOME": str(self._staging / ".home"), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aibrix_runtime.fetch.hub"),
            env=os.environ | home,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(SILENT_S):
                said, complaint = await process.communicate(json.dumps(wanted).encode())
        except TimeoutError:
            raise Failed("source_failed", f"{self._uri} took longer than {SILENT_S} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        try:
            answer = json.loads(said)
        except ValueError:
            raise Failed("source_failed", f"{self._uri}: {complaint.decode('utf-8', 'replace')[-300:]}") from None
        if "code" in answer:
            raise Failed(answer["code"], f"{self._uri}: {answer['message']}")
        return answer["ok"]


def _main() -> None:
    wanted = json.load(sys.stdin)
    try:
        answer: dict[str, Any] = {"ok": _act(wanted)}
    except Failed as error:
        answer = {"code": error.code, "message": error.message}
    json.dump(answer, sys.stdout)


def _act(wanted: dict[str, str]) -> Any:
    import httpx
    from huggingface_hub import HfApi, errors
    from huggingface_hub.hf_api import RepoFile

    api = HfApi(token=wanted["token"] or False)
    revision = wanted["revision"] or None
    try:
        if wanted["do"] == "list":
            rows = api.list_repo_tree(wanted["repo"], recursive=True, revision=revision)
            return [(row.path, row.size, row.blob_id) for row in rows if isinstance(row, RepoFile)]
        api.hf_hub_download(wanted["repo"], wanted["file"], revision=revision, local_dir=wanted["folder"])
        return None
    except (errors.GatedRepoError, errors.LocalTokenNotFoundError) as error:
        raise Failed("denied", _short(error)) from None
    except errors.RepositoryNotFoundError as error:  # the hub says 401 for a repository that is private or not there
        raise Failed("denied" if not wanted["token"] else "not_found", _short(error)) from None
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise Failed("not_found", _short(error)) from None
    except (errors.HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        raise Failed("denied" if status in (401, 403) else "source_failed", _short(error)) from None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    _main()
