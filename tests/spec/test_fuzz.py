"""Whatever a file holds: problems with a code and a place, never an exception, never a long wait, no model without reason."""

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aibrix_compile.codes import TITLES
from aibrix_compile.diagnostics import CompileError
from aibrix_compile.diagnostics import Path as SpecPath
from aibrix_compile.spec.base import Model
from aibrix_compile.spec.decode import decode
from aibrix_compile.spec.modelservice import ModelService
from aibrix_compile.spec.project import Project
from aibrix_compile.yamlio import Document, locate, parse
from aibrix_compile.yamlio import decode as text_of

HERE = Path(__file__).parent
TREES = {
    cls: yaml.safe_load((HERE / name).read_text("utf-8"))
    for cls, name in ((ModelService, "complete.yaml"), (Project, "project.yaml"))
}
TEXTS = [(HERE / name).read_bytes() for name in ("complete.yaml", "project.yaml", "thirty.yaml")]
SECONDS = 10.0

relaxed = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def judge(data: bytes) -> None:
    start = time.process_time()
    try:
        documents, found = parse(text_of(data, "f.yaml"))
    except CompileError as error:
        documents, found = [], list(error.diagnostics)
        assert found
    for one in found:
        assert one.code in TITLES and one.span.line >= 1 and one.span.column >= 1
        assert (one.span.line, one.span.column) < (one.span.end_line, one.span.end_column)
    for document in documents:
        for cls in (ModelService, Project):
            for partial in (False, True):
                check(cls, document, partial)
    assert time.process_time() - start < SECONDS


def check(cls: type[Model], document: Document, partial: bool) -> None:
    found = decode(cls, document.value, partial)
    assert found.problems or found.model is not None
    assert found.model is not None or not isinstance(document.value, dict) or found.problems[-1].code == "AC004"
    lines = document.source.text.split("\n")
    for one in found.problems:
        assert one.code in TITLES and one.message
        span = locate(document, one.path, one.at_key)
        assert 1 <= span.line <= len(lines) and 1 <= span.column <= len(lines[span.line - 1]) + 1
    keys = [(one.code, one.path, one.message) for one in found.problems]
    assert len(set(keys)) == len(keys), "a problem is told once"
    assert partial or found.model is None or bool(found.problems) == bool(found.invalid)


# --- mutations of good files

NASTY = ["", " ", "~", "yes", "010", "1_000", "-1", "1e999", "9" * 40, "0x", "%", "80", "2s", "70%", "24Gi", "20 USD", "12 per replica", "all",
         "\n", "\t", "\x85", "\u2028", "𝒳", "'", '"', "#", ": ", "- ", "&a", "*a", "!x", "{", "}", "[", "|", ">", "@", "`", "<<", "..", "hf://",
         "s3://../x", "file://", "a" * 300, "-" * 300, "a." * 200, "None", "[key]", "null", "name", "true"]  # fmt: skip
scalars = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=12), st.integers(), st.floats(), st.booleans(), st.none()
)  # fmt: skip
keys = st.one_of(
    st.sampled_from(["name", "spec", "count", "min", "from", "strategy", "kpa", "p99", "<<", "", "secret"]),
    st.text(max_size=6),
)
nodes = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)


def places(node: Any, path: SpecPath = ()) -> Iterator[SpecPath]:
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    tree = copy.deepcopy(TREES[draw(st.sampled_from([ModelService, Project]))])
    for _ in range(draw(st.integers(1, 8))):
        found = list(places(tree))
        if not found:
            break
        *way, last = draw(st.sampled_from(found))
        parent = tree
        for step in way:
            parent = parent[step]
        match draw(st.sampled_from(["drop", "replace", "nasty", "rename", "duplicate", "wrap", "move"])):
            case "drop":
                del parent[last]
            case "replace":
                parent[last] = draw(nodes)
            case "nasty":
                parent[last] = draw(scalars)
            case "rename" if isinstance(parent, dict):
                parent[draw(keys)] = parent.pop(last)
            case "duplicate" if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[last]))
            case "wrap":
                parent[last] = draw(st.sampled_from([lambda v: [v], lambda v: {"x": v}, lambda v: [v, None]]))(
                    parent[last]
                )
            case "move":
                parent[last] = copy.deepcopy(draw(st.sampled_from([tree, parent])))
    return tree


@relaxed
@given(mutated(), st.sampled_from([None, True, False]), st.booleans())
def test_mutated_trees(tree: Any, flow: bool | None, quoted: bool) -> None:
    judge(
        yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=True, default_style='"' if quoted else None).encode(
            "utf-8", "replace"
        )
    )


@relaxed
@given(st.dictionaries(st.sampled_from(["apiVersion", "kind", "metadata", "spec", "x"]), nodes, max_size=5))
def test_any_tree(tree: Any) -> None:
    judge(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "replace"))


@relaxed
@given(
    st.sampled_from(TEXTS),
    st.lists(
        st.tuples(
            st.integers(0, 4000),
            st.integers(0, 40),
            st.one_of(st.binary(max_size=4), st.sampled_from(NASTY).map(str.encode)),
        ),
        max_size=6,
    ),
)
def test_cut_and_pasted_bytes(data: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    for at, length, new in edits:
        data = data[:at] + new + data[at + length :]
    judge(data)


@relaxed
@given(st.sampled_from(TEXTS), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80)), max_size=5))
def test_moved_and_repeated_lines(data: bytes, moves: list[tuple[int, int]]) -> None:
    lines = data.split(b"\n")
    for source, target in moves:
        lines.insert(target % len(lines), lines[source % len(lines)])
    judge(b"\n".join(lines))


@relaxed
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
@example(b"")
@example(b"\xef\xbb\xbf")
@example(b"---")
@example(b"*a")
@example(b"? ")
@example(b"%YAML 1.1")
@example(b"a: &a\n  *a")
def test_any_bytes(data: bytes) -> None:
    judge(data)


HEAD = "apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\nmetadata: {name: chat}\nspec:\n  model: {uri: hf://a/b}\n"


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "  pools:\n" + "  - {acelerator: x}\n" * 40_000,
        HEAD + "  pools:\n" + "  - {accelerator: x, replicas: many}\n" * 30_000,
        HEAD + "".join(f"  k{i}: 1\n" for i in range(100_000)),
        HEAD + "  pools: [" + "null," * 200_000 + "]\n",
        HEAD + "  pools:\n  - accelerator: x\n    template: {a: [" + "yes, " * 200_000 + "]}\n",
        HEAD + "  engine: {args: {a: [" + "null, " * 200_000 + "]}}\n",
        HEAD + "  x: &x [" + "1, " * 400 + "]\n  y: [" + "*x, " * 500 + "]\n",
        HEAD + "  ? " + "k" * 1_000_000 + "\n  : 1\n",
        HEAD + "  routing: {strategy: " + "s" * 1_000_000 + "}\n",
        HEAD + "  routing: {retries: {when: " + "[" * 55 + "null" + "]" * 55 + "}}\n",
        HEAD.replace("hf://a/b", "s3://" + "a/" * 500_000 + "b"),
        HEAD.replace("chat", "a-" * 500_000),
        HEAD + "  engine: {image: " + "a-" * 500_000 + "}\n",
        HEAD + "  slo: {ttft: {" + ", ".join(f"p{i}: 1" for i in range(60_000)) + "}}\n",
    ],
    ids=range(14),
)  # fmt: skip
def test_no_document_takes_long(text: str) -> None:
    documents, _ = parse(text_of(text.encode(), "f.yaml"))
    start = time.process_time()
    found = decode(ModelService, documents[0].value)
    assert found.problems
    assert (found.model is None) == (found.problems[-1].code == "AC004")
    assert time.process_time() - start < SECONDS
