"""Where trees differ: golden cases, and two properties."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.diff.leaves import leaves, shown

CASES: list[tuple[Any, Any, list[tuple[str, str, str]]]] = [
    ({"a": 1}, {"a": 1}, []),
    ({"a": False}, {"a": True}, [("a", "false", "true")]),
    ({"a": {"b": 1}}, {"a": {}}, [("a.b", "1", "not set")]),
    ({}, {"a": {"b": [1, 2]}}, [("a", "not set", "{b: [1, 2]}")]),
    (
        {"p": [{"name": "x", "n": 1}]},
        {"p": [{"name": "y"}, {"name": "x", "n": 2}]},
        [("p[x].n", "1", "2"), ("p[y]", "not set", "{name: y}")],
    ),
    ({"p": [{"accelerator": "l4", "n": 1}]}, {"p": [{"accelerator": "l4", "n": 2}]}, [("p[l4].n", "1", "2")]),
    ({"p": [{"name": "x"}, {"name": "x"}]}, {"p": []}, [("p", "[{name: x}, {name: x}]", "[]")]),
    (
        {"args": ["--a=1", "--b"]},
        {"args": ["--c=3", "--a=2", "--b"]},
        [("args.--a", "1", "2"), ("args.--c", "not set", "3")],
    ),
    ({"args": ["--a=1", "--a=2"]}, {"args": ["--a=1", "--a=3"]}, [("args.--a'", "2", "3")]),
    ({"args": ["--a"]}, {"args": []}, [("args.--a", "set", "not set")]),
    ({"args": ["--a", "--b"]}, {"args": ["--b", "--a"]}, [("args", "[--a, --b]", "[--b, --a]")]),
    ({"days": ["Mon"]}, {"days": ["Mon", "Tue"]}, [("days", "[Mon]", "[Mon, Tue]")]),
    ({"a": "1"}, {"a": {"count": "1"}}, [("a", "1", "{count: 1}")]),
]


@pytest.mark.parametrize(("before", "after", "expected"), CASES)
def test_golden(before: Any, after: Any, expected: list[tuple[str, str, str]]) -> None:
    assert [(one.path, *shown(one.before, one.after)) for one in leaves(before, after)] == expected


def test_paths_lead_to_the_values_in_both_trees() -> None:
    before, after = {"p": [{"name": "x"}, {"name": "y", "n": 1}]}, {"p": [{"name": "y", "n": 2}]}
    found = {one.path: (one.old, one.new) for one in leaves(before, after)}
    assert found == {"p[x]": (("p", 0), ("p",)), "p[y].n": (("p", 1, "n"), ("p", 0, "n"))}


def test_long_values_are_cut_to_where_they_differ() -> None:
    assert shown("x" * 500, None) == ("x" * 160 + "...", "not set")
    assert shown("x" * 300 + "a", "x" * 300 + "b") == ("..." + "x" * 20 + "a", "..." + "x" * 20 + "b")


TREES = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["--a=1", "--b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "a", "b"]), inner, max_size=3),
    max_leaves=12,
)


@given(TREES)
def test_nothing_differs_from_itself(tree: Any) -> None:
    assert list(leaves(tree, tree)) == []


@given(TREES, TREES)
def test_what_differs_has_a_leaf(one: Any, other: Any) -> None:
    if one != other:
        assert list(leaves({"x": one}, {"x": other}))
