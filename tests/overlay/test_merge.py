"""The one rule by which an environment changes a service, and that places travel with what they belong to."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.diagnostics import Path
from aibrix_compile.overlay import merge
from aibrix_compile.yamlio import Document, Map, Place, Seq, decode, locate, parse


def load(text: str, name: str) -> Document:
    (document,), found = parse(decode(text.encode(), name))
    assert found == []
    return document


def merged(base: str, overlay: str) -> tuple[Document, list[tuple[str, str]]]:
    reports: list[tuple[str, str]] = []

    def report(code: str, place: Place, message: str, hint: str) -> None:
        span = place.span()
        reports.append((code, f"{span.file}:{span.line}:{span.column} {message} ({hint})"))

    below, above = load(base, "base.yaml"), load(overlay, "over.yaml")
    before = copy.deepcopy((below.value, above.value))
    result = merge(below.value, above.value, report)
    assert (below.value, above.value) == before
    return Document(result, below.place), reports


@pytest.mark.parametrize(
    ("base", "overlay", "expected"),
    [
        # maps merge
        ("a: {b: 1, c: 2}", "a: {c: 3, d: 4}", "a: {b: 1, c: 3, d: 4}"),
        ("a: {b: {c: 1}}", "a: {b: {d: 2}}", "a: {b: {c: 1, d: 2}}"),
        ("a: 1", "b: {c: 2}", "a: 1\nb: {c: 2}"),
        ("a: {b: 1}", "a: {}", "a: {b: 1}"),
        # scalars replace, and so does another kind of value
        ("a: 1", "a: 2", "a: 2"),
        ("a: 1", "a: {b: 2}", "a: {b: 2}"),
        ("a: {b: 1}", "a: 2", "a: 2"),
        ("a: {b: 1}", "a: [x]", "a: [x]"),
        ("a: [{name: x}]", "a: {b: 1}", "a: {b: 1}"),
        # plain lists replace
        ("a: [1, 2, 3]", "a: [4]", "a: [4]"),
        ("a: [1]", "a: []", "a: []"),
        ("a: [{name: x}]", "a: []", "a: []"),
        ("a: [{b: 1}]", "a: [{c: 1}]", "a: [{c: 1}]"),
        ("a: [{name: x, v: 1}]", "a: [{v: 2}]", "a: [{v: 2}]"),
        ("a: [{v: 1}]", "a: [{name: x, v: 2}]", "a: [{name: x, v: 2}]"),
        ("a: [{name: x, v: 1}]", "a: [{name: x}, y]", "a: [{name: x}, y]"),
        # lists of named items merge by name, in the order of the base, new ones last
        ("a: [{name: x, v: 1}, {name: y}]", "a: [{name: y, v: 2}]", "a: [{name: x, v: 1}, {name: y, v: 2}]"),
        ("a: [{name: x}]", "a: [{name: z}, {name: x, v: 1}]", "a: [{name: x, v: 1}, {name: z}]"),
        ("a: [{name: x, l: [1, 2]}]", "a: [{name: x, l: [3]}]", "a: [{name: x, l: [3]}]"),
        ("a: [{name: x, m: {p: 1}}]", "a: [{name: x, m: {q: 2}}]", "a: [{name: x, m: {p: 1, q: 2}}]"),
        # a pool without a name has its accelerator's
        ("p: [{accelerator: l4, n: 1}]", "p: [{accelerator: l4, n: 2}]", "p: [{accelerator: l4, n: 2}]"),
        ("p: [{accelerator: l4, n: 1}]", "p: [{name: l4, n: 2}]", "p: [{accelerator: l4, n: 2, name: l4}]"),
        ("p: [{name: a, accelerator: l4}]", "p: [{name: a, accelerator: h100}]", "p: [{name: a, accelerator: h100}]"),
        ("p: [{name: a, accelerator: l4}]", "p: [{accelerator: l4}]", "p: [{name: a, accelerator: l4}, {accelerator: l4}]"),
        # null resets to the default
        ("a: {b: 1, c: 2}", "a: {b: null}", "a: {c: 2}"),
        ("a: {b: 1}", "a: ~", "{}"),
        ("a: 1", "b:", "a: 1"),
        ("a: [{name: x, v: 1}]", "a: [{name: x, v: null}]", "a: [{name: x}]"),
        ("a: 1", "b: {c: {d: null, e: 1}}", "a: 1\nb: {c: {e: 1}}"),
        # remove drops an item
        ("a: [{name: x}, {name: y}]", "a: [{name: x, remove: true}]", "a: [{name: y}]"),
        ("a: [{name: x}]", "a: [{name: x, remove: true}]", "a: []"),
        ("p: [{accelerator: l4}, {name: b}]", "p: [{accelerator: l4, remove: true}]", "p: [{name: b}]"),
        ("a: [{name: x, v: 1}]", "a: [{name: x, remove: true}, {name: x, w: 2}]", "a: [{name: x, w: 2}]"),
    ],
)  # fmt: skip
def test_the_rule(base: str, overlay: str, expected: str) -> None:
    result, reports = merged(base, overlay)
    assert result.value == load(expected, "expected").value
    assert list(result.value) == list(load(expected, "expected").value)
    assert reports == []


REMOVED = "an item is removed by {name: ..., remove: true} and nothing else (keep name and remove: true)"


@pytest.mark.parametrize(
    ("base", "overlay", "expected", "report"),
    [
        (
            "a: [{name: x}]",
            "a: [{name: y, remove: true}]",
            "a: [{name: x}]",
            ("AC122", 'over.yaml:1:5 there is no item "y" to remove (items here: x)'),
        ),
        (
            "a: [{name: x}, {name: y}]",
            "a:\n- {name: x, remove: true}\n- {name: x, remove: true}",
            "a: [{name: y}]",
            ("AC122", 'over.yaml:3:3 there is no item "x" to remove (items here: y)'),
        ),
        (
            "b: 1",
            "a: [{name: y, remove: true}]",
            "b: 1\na: []",
            ("AC122", 'over.yaml:1:5 there is no item "y" to remove (items here: none)'),
        ),
        *(
            (
                "a: [{name: x}]",
                f"a: [{{name: x, {item}}}]",
                "a: [{name: x}]",
                (
                    "AC123",
                    "over.yaml:1:5 an item is removed by {name: ..., remove: true} and nothing else"
                    " (keep name and remove: true)",
                ),
            )
            for item in (
                "remove: false",
                "remove: yes",
                'remove: "true"',
                "remove: true, v: 1",
                "remove: [true]",
                "remove: null",
            )
        ),
    ],
)
def test_what_only_the_merge_can_see(base: str, overlay: str, expected: str, report: tuple[str, str]) -> None:
    result, reports = merged(base, overlay)
    assert reports == [report]
    assert result.value == load(expected, "expected").value


BASE = """\
meta: {name: chat}
spec:
  engine: {version: 1, args: {x: 1}}
  pools:
    - {name: l4, replicas: 1}
    - {name: a100, replicas: 2}
  list: [1, 2]
"""
OVER = """\
# prod
spec:
  engine:
    args: {y: 2}
    version: 2
  pools:
    - {name: a100, replicas: 4}
    - {name: h100, replicas: 1}
  list: [3]
  more: {k: v}
"""


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (("meta", "name"), "base.yaml:1:14"),
        (("spec",), "base.yaml:2:1"),
        (("spec", "engine"), "base.yaml:3:11"),
        (("spec", "engine", "version"), "over.yaml:5:14"),
        (("spec", "engine", "args", "x"), "base.yaml:3:34"),
        (("spec", "engine", "args", "y"), "over.yaml:4:15"),
        (("spec", "pools"), "base.yaml:4:3"),
        (("spec", "pools", 0, "replicas"), "base.yaml:5:28"),
        (("spec", "pools", 1), "base.yaml:6:7"),
        (("spec", "pools", 1, "replicas"), "over.yaml:7:30"),
        (("spec", "pools", 2), "over.yaml:8:7"),
        (("spec", "pools", 2, "name"), "over.yaml:8:14"),
        (("spec", "list"), "over.yaml:9:9"),
        (("spec", "list", 0), "over.yaml:9:10"),
        (("spec", "more"), "over.yaml:10:9"),
        (("spec", "more", "k"), "over.yaml:10:13"),
    ],
)
def test_places_travel(path: Path, where: str) -> None:
    result, _ = merged(BASE, OVER)
    span = locate(result, path)
    assert f"{span.file}:{span.line}:{span.column}" == where


def test_several_overlays_in_order() -> None:
    base = load("a: 1\nb: {c: 1}", "base.yaml").value
    for text in ("a: 2\nb: {c: null}", "b: {c: 3}"):
        base = merge(base, load(text, "o").value, lambda *_: pytest.fail("nothing to report"))
    assert base == {"a": "2", "b": {"c": "3"}}


def test_two_items_of_one_name_in_the_base() -> None:
    """AC203 tells; the merge must only not lose them."""
    result, _ = merged("a: [{name: x, v: 1}, {name: x, v: 2}]", "a: [{name: x, w: 3}]")
    assert len(result.value["a"]) == 2


TREES = st.recursive(
    st.sampled_from(["1", "x", "true", "null"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "name", "accelerator", "remove"]), inner, max_size=4),
    ),
    max_leaves=12,
)
MAPS = st.dictionaries(st.sampled_from(["a", "b", "c"]), TREES, max_size=3)


def flow(node: Any) -> str:
    if isinstance(node, dict):
        return "{" + ", ".join(f"{key}: {flow(value)}" for key, value in node.items()) + "}"
    return "[" + ", ".join(map(flow, node)) + "]" if isinstance(node, list) else str(node)


def whole(node: Any) -> bool:
    """Every entry has its place, and nothing else has."""
    if isinstance(node, Map):
        return node.keys() == node.at.keys() and all(map(whole, node.values()))
    return not isinstance(node, Seq) or (len(node) == len(node.at) and all(map(whole, node)))


@given(MAPS, MAPS)
def test_merging_is_total_and_idempotent(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    below, above = load(flow(base), "base.yaml").value, load(flow(overlay), "over.yaml").value
    once = merge(below, above, lambda *_: None)
    assert whole(once)
    assert merge(once, Map(), lambda *_: None) == once
    assert merge(once, above, lambda *_: None) == once
