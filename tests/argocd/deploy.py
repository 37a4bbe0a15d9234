"""A project as its owner has it: sources, the compiler, and the Git repository that Argo CD reads.

The sources are a copy of an example, changed before it is compiled. What was compiled is committed and applied as it is.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.cluster.watch import Object

ROOT = Path(__file__).parents[2]
_REPO_URL = re.compile(r"(?<=repoURL: )[^,\s}]+")
_GIT = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "PATH": "/usr/local/bin:/usr/bin:/bin"}
_WHO = {f"GIT_{who}_{what}": "test@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Deploy:
    """`sources` has aibrix.yaml, `repository` the manifests under `deploy/<environment>`."""

    def __init__(self, folder: Path, example: str) -> None:
        self.sources, self.repository = folder / "sources", folder / "repository"
        self.url = f"file://{self.repository}"
        ignored = shutil.ignore_patterns("expected")
        shutil.copytree(ROOT / "examples" / example, self.sources, ignore=ignored)
        project = self.sources / "aibrix.yaml"
        project.write_text(_REPO_URL.sub(self.url, project.read_text()))
        self.repository.mkdir()
        self._git("init", "--quiet", "--initial-branch=main")

    # --- sources

    def add(self, example: str, *names: str) -> None:
        """Files of another example, among the services."""
        for name in names:
            to = self.sources / "services" / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "examples" / example / name, to)

    def edit(self, name: str, old: str, new: str) -> None:
        """Change a source file; `old` must be in it once."""
        path = self.sources / name
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {name}"
        path.write_text(text.replace(old, new))

    # --- the compiler, as a user runs it

    def build(self, *words: str) -> str:
        """`aibrix-compile build` into the repository; what it said."""
        return self._compile("build", *words)

    def platform(self, *words: str) -> str:
        return self._compile("platform", *words)

    def _compile(self, command: str, *words: str) -> str:
        argv = [sys.executable, "-m", "aibrix_compile", command, "-o", str(self.repository / "deploy"), *words]
        done = subprocess.run(argv, cwd=self.sources, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    # --- Git

    def copy_sources(self) -> None:
        """The sources themselves into the repository's folder `sources`, for the plugin that compiles them there."""
        shutil.copytree(self.sources, self.repository / "sources", dirs_exist_ok=True)

    def commit(self, message: str, *words: str) -> str:
        """Everything that is in the folder; the commit's name."""
        self._git("add", "--all")
        self._git("commit", "--quiet", f"--message={message}", *words)
        return self._git("rev-parse", "HEAD").strip()

    def path(self, name: str) -> Path:
        """A file or folder of the output."""
        return self.repository / "deploy" / name

    def objects(self, folder: str) -> list[Object]:
        """What the compiler emitted into a folder of the output."""
        found = [yaml.safe_load(path.read_text()) for path in sorted(self.path(folder).glob("*.yaml"))]
        assert found, f"nothing was emitted into {folder}"
        return found

    def _git(self, *words: str) -> str:
        argv = ["git", "-C", str(self.repository), *words]
        return subprocess.run(argv, env=_GIT | _WHO, check=True, capture_output=True, text=True).stdout
