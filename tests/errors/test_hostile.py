"""Hostile input, through the whole compiler: a located finding or a good build; never an exception, never a long wait."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aibrix_compile.compiler import compile_workspace
from aibrix_compile.diagnostics import UsageError
from aibrix_compile.loading import load

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "02-environments"
SEEDS = [(ROOT / "examples/01-minimal/chat.yaml").read_bytes(), (ROOT / "tests/spec/complete.yaml").read_bytes()]
NASTY = [
    *(b"\x00", b"\xff", b"\t", b"\r", b"\n\n", b"'", b'"', b"{", b"}", b"[", b"]", b": ", b"- ", b"#", b"&a ", b"*a ", b"!!int ", b"<<: "),
    *(b"| \n", b"> \n", b"---\n", b"...\n", b"%YAML 9.9\n", b"~", b"null", b"010", b"1e999", b"-1", b"9" * 60, b"a" * 400, b"../" * 20),
    *("\u2028".encode(), "\u202e".encode(), "\ufeff".encode(), "漢字".encode(), b"hf://", b"s3://../..", b"{}", b"[[]]", b"true", b"''"),
]  # fmt: skip
common = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def judge(folder: Path, paths: list[Path]) -> None:
    """Compile for a build and hold what comes out against the promise."""
    start = time.process_time()
    try:
        workspace = load(paths, folder)
        result = compile_workspace(workspace, build=True)
    except UsageError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert time.process_time() - start < 10
    assert result.artifacts or result.diagnostics
    for one in result.diagnostics:
        lines = workspace.sources.get(one.span.file, "").split("\n")
        assert one.span.line >= 1 and one.span.column >= 1 and one.message
        assert one.span.line <= len(lines) or one.code in ("AC003", "AC004")


@pytest.mark.parametrize("seed", range(40))
def test_mutated_specs(seed: int, tmp_path: Path) -> None:
    chooser = random.Random(seed)
    for number in range(10):
        text = bytearray(chooser.choice(SEEDS))
        for _ in range(chooser.randint(1, 4)):
            at = chooser.randrange(len(text))
            until = min(len(text), at + chooser.choice((0, 1, 5, 40)))
            text[at:until] = chooser.choice(NASTY)
        (tmp_path / f"{number}.yaml").write_bytes(text)
        judge(tmp_path, [Path(f"{number}.yaml")])


@common
@given(data=st.binary(max_size=300))
def test_any_bytes_as_a_service(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "chat.yaml").write_bytes(data)
    judge(tmp_path, [Path("chat.yaml")])


@pytest.mark.parametrize("name", ["aibrix.yaml", "aibrix.lock", "overlays/prod.yaml", "services/summaries.yaml"])
@pytest.mark.parametrize("seed", range(12))
def test_mutated_projects(name: str, seed: int, tmp_path: Path) -> None:
    chooser = random.Random(seed)
    for path in EXAMPLE.rglob("*"):
        if path.is_file() and "expected" not in path.parts:
            target = tmp_path / path.relative_to(EXAMPLE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    text = bytearray((EXAMPLE / name).read_bytes())
    for _ in range(chooser.randint(1, 3)):
        at = chooser.randrange(len(text))
        text[at : at + chooser.choice((0, 1, 6))] = chooser.choice(NASTY)
    (tmp_path / name).write_bytes(text)
    judge(tmp_path, [])


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)),
        "[" * 5000,
        "{a: " * 5000,
        "- " * 5000,
        "a: " + "9" * 1_000_000,
        "? " * 3000,
        "\n" * 1_000_000,
        "a: |\n" + " x\n" * 300_000,
        "".join(f"k{n}: v\n" for n in range(100_000)),
    ],
    ids=["laughs", "lists", "maps", "dashes", "digits", "keys", "lines", "block", "wide"],
)  # fmt: skip
def test_bombs(text: str, tmp_path: Path) -> None:
    (tmp_path / "chat.yaml").write_text("apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\n" + text)
    judge(tmp_path, [Path("chat.yaml")])
