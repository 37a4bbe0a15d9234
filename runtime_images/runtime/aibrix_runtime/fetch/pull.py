"""A file from a source onto the disk: in ranges, several at once, resumable, hashed. The same for every kind of source."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from aibrix_runtime.errors import Failed
from aibrix_runtime.fetch import Meta, Source

CHUNK = 8 << 20
"""Bytes of one request; what is lost at most when it breaks off."""
AT_ONCE = 4
"""Requests for one file. Stores that give 80 MB/s to a connection give four times as much to four."""
TRIES, WAIT_S = 3, 0.5
Progress = Callable[[int, bool], None]
"""Bytes that are there, and whether they came now."""


async def pull(source: Source, name: str, meta: Meta, target: Path, progress: Progress) -> str:
    """Writes `name` to `target` and returns its sha256, hexadecimal. What an earlier attempt has left beside it - `target`.part and
    .state - is used if the source still has the same tag. Failed: source_failed, disk_full, and what a source raises."""
    part, state = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.state")
    done = _known(state, meta) if part.exists() and meta.tag else set()
    ranges = [(begin, min(begin + CHUNK, meta.size)) for begin in range(0, meta.size, CHUNK)]
    progress(sum(end - begin for begin, end in ranges if begin in done), False)
    number = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | (0 if done else os.O_TRUNC), 0o644)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(begin: int, end: int) -> None:
        async with gate:
            data = await _patiently(source, name, begin, end, meta.tag)
            await asyncio.to_thread(_put, number, data, begin)
            done.add(begin)
            progress(len(data), True)
            _write(state, json.dumps({"tag": meta.tag, "size": meta.size, "done": sorted(done)}))

    try:
        async with asyncio.TaskGroup() as group:
            for begin, end in ranges:
                if begin not in done:
                    group.create_task(one(begin, end))
        await asyncio.to_thread(os.fsync, number)
        digest = await asyncio.to_thread(_hash, number)
    except* (Failed, OSError) as errors:
        raise _first(errors, target) from None
    finally:
        os.close(number)
    part.replace(target)
    state.unlink(missing_ok=True)
    return digest


async def _patiently(source: Source, name: str, begin: int, end: int, tag: str) -> bytes:
    """A range, tried again when it breaks off; nothing else of a download is lost by that."""
    for attempt in range(1, TRIES + 1):
        try:
            return await source.read(name, begin, end, tag)
        except Failed as error:
            if error.code != "source_failed" or attempt == TRIES:
                raise
            await asyncio.sleep(WAIT_S * attempt)
    raise AssertionError


def _first(errors: BaseExceptionGroup[Failed | OSError], target: Path) -> Failed:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Failed):
        return error
    return on_disk(error, target)


def on_disk(error: BaseException, path: Path) -> Failed:
    """What an operating system's error on our own disk means."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return Failed("disk_full", f"the disk of {path.parent} is full")
    return Failed("disk_full", f"{path} can not be written: {error}")


def _known(state: Path, meta: Meta) -> set[int]:
    try:
        found = json.loads(state.read_bytes())
        if found["tag"] == meta.tag and found["size"] == meta.size:
            return {int(begin) for begin in found["done"] if int(begin) % CHUNK == 0}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return set()


def _put(number: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(number, view, at)
        view, at = view[written:], at + written


def _hash(number: int) -> str:
    digest, at = hashlib.sha256(), 0
    while data := os.pread(number, 1 << 20, at):
        digest.update(data)
        at += len(data)
    return digest.hexdigest()


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)
