"""Git repositories for tests, also with trees that `git add` would never make."""

import subprocess
from pathlib import Path

IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main")


def git(folder: Path, *arguments: str, text: bytes = b"") -> str:
    done = subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, input=text, check=True, capture_output=True)
    return done.stdout.decode().strip()


def committed(folder: Path) -> str:
    """Everything in the folder as a commit; a repository is made first if there is none."""
    if not (folder / ".git").exists():
        git(folder, "init")
    git(folder, "add", "-A")
    git(folder, "commit", "--allow-empty", "-m", "x")
    return git(folder, "rev-parse", "HEAD")


def crafted(folder: Path, *entries: tuple[str, str, bytes]) -> str:
    """A commit of one tree with these names, modes and contents, as hostile as they like."""
    lines = []
    for name, mode, content in entries:
        blob = git(folder, "hash-object", "-w", "--stdin", text=content)
        kind = {"160000": "commit", "40000": "tree"}.get(mode, "blob")
        found = content.decode() if kind != "blob" else blob
        lines.append(mode.encode() + b" " + name.encode() + b"\0" + bytes.fromhex(found))
    tree = git(folder, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", text=b"".join(lines))
    return git(folder, "commit-tree", "-m", "x", tree)
