"""Pull requests against the examples, and the comments that they get. `python -m tests.diff.requests` writes those anew."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cli import EXAMPLES
from tests.diff import invoke

EXPECTED = Path(__file__).parent / "expected"
Edits = Sequence[tuple[str, str, str]]
"""File, text, and what stands in its place; no text at all removes the file."""

REQUESTS: dict[str, tuple[str, Edits]] = {
    "slo": (
        "04-scaling",
        [
            ("services/chat.yaml", "maxModelLen: 16384", "maxModelLen: 8192"),
            ("services/chat.yaml", "{min: 2, max: 6}", "{min: 3, max: 6}"),
            ("services/chat.yaml", "ttft: {p99: 2s}", "ttft: {p99: 3s}"),
            ("services/extract.yaml", "{min: 1, max: 4}", "{min: 1, max: 5}"),
            ("aibrix.yaml", "quota: 12", "quota: 11"),
        ],
    ),
    "company": (
        "07-company",
        [
            ("services/tickets.yaml", "0.32.0", "0.33.0"),
            (
                "aibrix.lock",
                "images:",
                "images:\n  docker.io/vllm/vllm-openai:v0.33.0: sha256:6f8c2a0d1e3b4c6a7d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e",
            ),
            ("services/billing.yaml", "{name: l4, accelerator", "{name: cheap, accelerator"),
            (
                "overlays/small.yaml",
                "metadata: {name: billing}\nspec: {pools: [{name: l4",
                "metadata: {name: billing}\nspec: {pools: [{name: cheap",
            ),
            ("services/analyst.yaml", "tensor: 4}, replicas: 2", "tensor: 4}, replicas: 1, spot: true"),
            ("adapters/energy.yaml", "  - {name: energy-002, uri: s3://adapters/energy/002, rank: 32}\n", ""),
            ("services/notes.yaml", "", ""),
        ],
    ),
    "weights": (
        "06-multi-node",
        [
            ("services/deepseek.yaml", "e815299b0bcbac", "f815299b0bcbac"),
            ("services/deepseek.yaml", "size: 800Gi", "size: 1200Gi"),
        ],
    ),
}


@contextmanager
def changed(name: str) -> Iterator[Path]:
    """The folder with the example as the request leaves it; beside it, ../base, as it was."""
    example, edits = REQUESTS[name]
    with TemporaryDirectory() as folder:
        base, head = Path(folder, "base"), Path(folder, "head")
        for copy in (base, head):
            shutil.copytree(EXAMPLES / example, copy, ignore=shutil.ignore_patterns("expected"))
        for file, old, new in edits:
            path = head / file
            if not old:
                path.unlink()
                continue
            text = path.read_text("utf-8")
            assert old in text, (file, old)
            path.write_text(text.replace(old, new), "utf-8")
        yield head


def output(name: str, form: str) -> str:
    with changed(name) as head:
        done = invoke("diff", "../base", "--format", form, cwd=head)
        assert done.returncode == 0, done.stderr
        return done.stdout


FORMS = {"md": "markdown", "txt": "pretty", "json": "json"}
COMMENTS = ("company.md", "slo.json", "slo.md", "slo.txt", "weights.json", "weights.md")

if __name__ == "__main__":
    for comment in COMMENTS:
        request, _, suffix = comment.partition(".")
        (EXPECTED / comment).write_text(output(request, FORMS[suffix]), "utf-8")
        sys.stdout.write(f"{comment}\n")
