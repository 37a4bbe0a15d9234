"""file:// and pvc://: a folder that is mounted here. Nothing outside of its root is read, whatever links say."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

from aibrix_runtime.errors import Failed
from aibrix_runtime.fetch import Meta


class Folder:
    """`path` below `root`; only plain files count. Claims are written by others while they are read here."""

    def __init__(self, root: Path, path: str) -> None:
        self._root, self._folder = root.resolve(), root / path

    async def head(self, name: str) -> Meta | None:
        found = await asyncio.to_thread(self._open, name)
        if found is None:
            return None
        number, meta = found
        os.close(number)
        return meta

    async def read(self, name: str, begin: int, end: int, tag: str) -> bytes:
        return await asyncio.to_thread(self._read, name, begin, end, tag)

    async def names(self) -> list[str]:
        def walk() -> list[str]:
            return [
                path.relative_to(self._folder).as_posix()
                for path in sorted(self._folder.rglob("*"))[:5000]
                if path.is_file() and path.resolve().is_relative_to(self._root)
            ]

        try:
            return await asyncio.to_thread(walk)
        except OSError as error:
            raise Failed("source_failed", f"{self._folder} can not be listed: {error.strerror}") from None

    async def close(self) -> None: ...

    def _read(self, name: str, begin: int, end: int, tag: str) -> bytes:
        found = self._open(name)
        if found is None or found[1].tag != tag:
            raise Failed("source_failed", f"{self._folder / name} changed while it was read")
        with open(found[0], "rb") as stream:  # noqa: PTH123 - a number, not a path
            stream.seek(begin)
            data = stream.read(end - begin)
        if len(data) != end - begin:
            raise Failed("source_failed", f"{self._folder / name} changed while it was read")
        return data

    def _open(self, name: str) -> tuple[int, Meta] | None:
        path = self._folder / name
        try:
            real = path.resolve(strict=True)
            if not real.is_relative_to(self._root):
                raise Failed("uri_not_allowed", f"{path} is a link that leaves {self._root}")
            number = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            raise Failed("denied", f"{path} may not be read by this user") from None
        except (OSError, RuntimeError) as error:
            raise Failed("source_failed", f"{path} can not be opened: {error}") from None
        about = os.fstat(number)
        if not stat.S_ISREG(about.st_mode):
            os.close(number)
            raise Failed("source_failed", f"{path} is no plain file")
        return number, Meta(about.st_size, f"{about.st_size}-{about.st_mtime_ns}-{about.st_ino}")
