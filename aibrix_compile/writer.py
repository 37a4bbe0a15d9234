"""Artifacts -> files, so that an interruption at any moment leaves a folder that the next build repairs.

`.aibrix-files` lists what is ours, sorted. It is written first with old and new names together, then each file is written
under a temporary name and moved to its place, then what is no longer wanted is deleted, and the list is written for good.
Files that are not on the list are somebody else's: they are never touched and never overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aibrix_compile.diagnostics import UsageError

LIST = ".aibrix-files"
_TEMPORARY = ".aibrix-tmp"


@dataclass(frozen=True, slots=True)
class Changes:
    """Relative paths, sorted. `foreign` exist with other content and are not ours."""

    written: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: int
    foreign: tuple[str, ...]
    wanted: frozenset[str]
    listed: frozenset[str]


def compare(folder: Path, files: Mapping[str, str], covers: Collection[str] | None) -> Changes:
    """What writing `files` would change. `covers` are the sub-folders that this build speaks for; None = all.

    UsageError when the folder can not be read.
    """
    listed = _listed(folder)
    written, foreign, unchanged = [], [], 0
    try:
        for name, text in files.items():
            found = _content(folder / name)
            if found == text.encode():
                unchanged += 1
            elif found is not None and name not in listed:
                foreign.append(name)
            else:
                written.append(name)
    except OSError as error:
        raise _unusable(folder, error) from None
    gone = sorted(n for n in listed - files.keys() if _covered(n, covers))
    return Changes(tuple(sorted(written)), tuple(gone), unchanged, tuple(sorted(foreign)), frozenset(files), listed)


def write(folder: Path, files: Mapping[str, str], changes: Changes) -> None:
    """Carry `changes` out. UsageError when the folder can not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        wanted = (changes.listed - set(changes.deleted)) | changes.wanted
        if wanted != changes.listed or changes.written:
            _put_list(folder, wanted | changes.listed)
        made: set[Path] = set()
        for name in changes.written:
            path = folder / name
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            _put(folder, path, files[name])
        for name in changes.deleted:
            (folder / name).unlink(missing_ok=True)
            _drop_empty(folder, PurePosixPath(name).parent)
        if wanted != (wanted | changes.listed):
            _put_list(folder, wanted)
    except OSError as error:
        raise _unusable(folder, error) from None


def _listed(folder: Path) -> frozenset[str]:
    """The files that are ours; a list that was tampered with names nothing outside the folder."""
    try:
        text = (folder / LIST).read_text("utf-8")
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError) as error:
        raise _unusable(folder, error) from None
    names = frozenset(line for line in text.splitlines() if line)
    for name in names:
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise UsageError(f"{LIST} names {name!r}, which is not in its folder; delete the list and build again")
    return names


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _put(folder: Path, path: Path, text: str) -> None:
    temporary = folder / _TEMPORARY  # one name: what an interruption leaves behind, the next build takes over
    temporary.write_bytes(text.encode())
    os.replace(temporary, path)  # noqa: PTH105 - half the time of Path.replace


def _put_list(folder: Path, names: Iterable[str]) -> None:
    _put(folder, folder / LIST, "".join(f"{name}\n" for name in sorted(names)))


def _drop_empty(folder: Path, inner: PurePosixPath) -> None:
    while inner.parts:
        try:
            (folder / inner).rmdir()
        except OSError:
            return
        inner = inner.parent


def _covered(name: str, covers: Collection[str] | None) -> bool:
    return covers is None or any(name.startswith(f"{one}/") or name == one for one in covers)


def _unusable(folder: Path, error: Exception) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    at = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    return UsageError(f"can not use {folder}: {reason.lower()}{at}")
