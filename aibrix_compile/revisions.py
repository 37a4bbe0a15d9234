"""Git revisions as folders: what a commit holds of the project's folder, written to a temporary one.

The working tree is not touched, and what Git does not track is not read. A tree may come from anybody: paths that leave the
folder, submodules and links that lead out of it are left out, and a file that is too large to be a spec has no content.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.yamlio import MAX_BYTES

_MOST = 1024 * 2**20
"""Bytes of all files of a project's folder."""
_CHUNK = 64 * 2**20  # bytes that are in memory at once
_FILES, _LINK = (b"100644", b"100755", b"100664"), b"120000"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository seen from a folder: `top` is its working tree, `prefix` the folder in it, "" or ending in /."""

    top: Path
    prefix: str

    def commit(self, name: str) -> str | None:
        """The commit that a revision means; None where Git knows none."""
        if name.startswith("-") or "\0" in name:
            return None
        done = _git(self.top, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        return done.stdout.decode().strip() if done.returncode == 0 else None

    def unknown(self, name: str) -> UsageError:
        """Why there is no such revision, and what to do."""
        if ".." in name:
            one, _, other = (part or "HEAD" for part in name.replace("...", "..").partition(".."))
            first = f'"$(git merge-base {one} {other})"' if "..." in name else one
            return UsageError(f"{name} is a range; write two arguments: aibrix-compile diff {first} {other}")
        if _git(self.top, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true":
            hint = "this clone is shallow: fetch the revision first (git fetch --unshallow; actions/checkout: fetch-depth: 0)"
        elif self.commit(f"origin/{name}") is not None:
            hint = f"there is origin/{name}"
        else:
            hint = "git log --all shows what there is; git fetch gets more"
        return UsageError(f"{name} is neither a revision of this repository nor a file or folder; {hint}")

    def extract(self, commit: str, marker: str, into: Path) -> Path:
        """Write the tracked files of the project into the folder `into`; the project's folder in it. That is the nearest
        one, from the current folder upwards, that has a file `marker`, else the current one. UsageError: too large."""
        root = self._project(commit, marker)
        project = into / root
        project.mkdir(parents=True, exist_ok=True)
        tree = f"{commit}:{root.rstrip('/')}"
        if self._kind(tree) == "tree":
            entries = list(_entries(_git(self.top, "ls-tree", "-r", "-z", "-l", tree).stdout))
            if sum(one.size for one in entries) > _MOST:
                raise UsageError(
                    f"{root or 'the repository'} holds more than {_MOST // 2**20} MiB of files at {commit[:12]}"
                )
            try:
                _write(self.top, project, entries)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise UsageError(f"can not write out the files of {commit[:12]}: {reason}") from None
        return project

    def _project(self, commit: str, marker: str) -> str:
        folder = self.prefix
        while self._kind(f"{commit}:{folder}{marker}") != "blob":
            if not folder:
                return self.prefix
            folder = folder.rstrip("/").rpartition("/")[0]
            folder += "/" if folder else ""
        return folder

    def _kind(self, name: str) -> str:
        return _git(self.top, "cat-file", "-t", name).stdout.decode().strip()


def repository(folder: Path) -> Repository | None:
    """The one around a folder; None where there is none. UsageError: Git is not there, or refuses the repository."""
    if shutil.which("git") is None:
        raise UsageError("git is not installed; without it, give two folders")
    done = _git(folder, "rev-parse", "--show-toplevel", "--show-prefix")
    if done.returncode == 0:
        top, prefix = os.fsdecode(done.stdout).split("\n")[:2]
        return Repository(Path(top), prefix)
    said = done.stderr.decode(errors="replace").strip()
    if "not a git repository" in said or "must be run in a work tree" in said:
        return None
    raise UsageError(f"git can not read this repository: {said.splitlines()[0] if said else 'it says no reason'}")


@dataclass(frozen=True, slots=True)
class _Entry:
    """`parts` of a path that stays inside its folder; `size` counts what is read of the file."""

    mode: bytes
    name: bytes
    size: int
    whole: bool
    parts: tuple[str, ...]


def _entries(listing: bytes) -> Iterator[_Entry]:
    for line in listing.split(b"\0")[:-1]:
        facts, _, path = line.partition(b"\t")
        mode, _, name, size = facts.split()
        parts = tuple(os.fsdecode(path).split("/"))
        if mode in (*_FILES, _LINK) and not {"", ".", "..", ".git"} & {*parts}:
            whole = int(size) <= MAX_BYTES
            yield _Entry(mode, name, int(size) if whole else 0, whole, parts)


def _write(top: Path, project: Path, entries: Sequence[_Entry]) -> None:
    """Folders first, then files, then links: nothing is ever written through a link."""
    for parent in sorted({one.parts[:-1] for one in entries}):
        project.joinpath(*parent).mkdir(parents=True, exist_ok=True)
    links = []
    for one, content in _contents(top, entries):
        path = project.joinpath(*one.parts)
        if one.mode == _LINK:
            links.append((path, content))
        elif one.whole:
            path.write_bytes(content)
        else:
            path.touch()
            os.truncate(path, MAX_BYTES + 1)  # no room on disk, and too large for the reader
    for path, target in links:
        if target and b"\0" not in target:
            path.symlink_to(os.fsdecode(target))
    inside = project.resolve()
    for path, _ in links:
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):  # resolve() fails on loops
            path.unlink()


def _contents(top: Path, entries: Sequence[_Entry]) -> Iterator[tuple[_Entry, bytes]]:
    yield from ((one, b"") for one in entries if not one.whole)
    chunk: list[_Entry] = []
    room = _CHUNK
    for one in (*(one for one in entries if one.whole), None):
        if one is None or one.size > room:
            yield from zip(chunk, _blobs(top, chunk), strict=True)
            chunk, room = [], _CHUNK
        if one is not None:
            chunk.append(one)
            room -= one.size


def _blobs(top: Path, entries: Sequence[_Entry]) -> Iterator[bytes]:
    names = b"".join(one.name + b"\n" for one in entries)
    data = _git(top, "cat-file", "--batch", names=names).stdout if entries else b""
    start = 0
    for one in entries:
        end = data.index(b"\n", start)
        if data[start:end].split()[-1:] == [b"missing"]:
            raise UsageError(f"git does not have the object {one.name.decode()}; this clone is not complete")
        start, size = end + 1, int(data[start:end].split()[2])
        yield data[start : start + size]
        start += size + 1


def _git(folder: Path, *arguments: str, names: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run(["git", *arguments], cwd=folder, input=names, capture_output=True, env=environment)
