"""Prompts of every API as one text, and how much of it two of them share."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_controllers.picker.prompt import MEDIA_BYTES, Malformed, blocks, read, renamed


def text(**body: Any) -> bytes:
    return read(orjson.dumps({"model": "m", **body})).text


TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "hello"}, b"hello"),
        ({"prompt": ["a", "b"]}, b"a\0b"),
        ({"prompt": [1, 2]}, b"\1\0\0\0\2\0\0\0"),
        ({"prompt": [[1], [2]]}, b"\1\0\0\0\0\2\0\0\0"),
        ({"prompt": [-1, 2]}, b"[-1,2]"),
        ({"input": "embed me"}, b"embed me"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]}, b"user\0hi"),
        ({"instructions": "be kind", "input": "hi"}, b"be kind\0hi"),
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}, b"system\0s\0user\0u"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "u"}]}]}, b"user\0u"),
        ({"system": "s", "messages": [{"role": "user", "content": "u"}]}, b"s\0user\0u"),
        ({"system": [{"type": "text", "text": "s"}], "messages": []}, b"s\0[]"),
        ({"tools": [TOOL], "messages": [{"role": "user", "content": "u"}]}, orjson.dumps([TOOL]) + b"\0user\0u"),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
            b'assistant\0[{"id":"1"}]',
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "42"}]}]},
            b"user\x0042",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "input": 1}]}]},
            b'user\0{"type":"tool_use","input":1}',
        ),
        ({"messages": "wrong"}, b"wrong"),
        ({"messages": [7, None]}, b"[7,null]"),
        ({"prompt": True}, b"true"),
        ({}, b""),
    ],
)
def test_canonical_text(body: dict[str, Any], expected: bytes) -> None:
    assert text(**body) == expected


def test_forms_that_mean_the_same_are_the_same() -> None:
    plain = text(messages=[{"role": "user", "content": "hi"}], temperature=1)
    parts = text(messages=[{"content": [{"text": "hi", "type": "text"}], "role": "user"}], stream=True)
    assert plain == parts


def test_media_count_as_tokens_and_not_as_their_bytes() -> None:
    found = read(orjson.dumps({"model": "m", "messages": [{"role": "user", "content": [IMAGE, IMAGE]}]}))
    assert len(found.text) == len(b"user") + 2 * 9
    assert found.size == len(found.text) + 2 * MEDIA_BYTES
    other = {"type": "image_url", "image_url": {"url": "data:image/png;base64,B"}}
    assert text(messages=[{"role": "user", "content": [other]}]) != text(
        messages=[{"role": "user", "content": [IMAGE]}]
    )


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({}, 0),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_output_tokens": 5}, 5),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": "7"}, 0),
        ({"max_tokens": -1}, 0),
        ({"max_tokens": True}, 0),
        ({"max_tokens": 7, "n": 0}, 7),
        ({"max_tokens": 10**12}, 0),
    ],
)
def test_the_bound_of_the_answer(body: dict[str, Any], most: int) -> None:
    assert read(orjson.dumps({"model": "m", **body})).most == most


def test_blocks_are_equal_up_to_the_first_difference() -> None:
    one, other = b"a" * 5000, b"a" * 3000 + b"b" * 2000
    first, second = blocks(one, "x"), blocks(other, "x")
    assert len(first) == 4, "what is no whole block is none"
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, False]
    assert len({*first, *blocks(one, "y")}) == 8, "another adapter shares nothing"
    assert len(set(first)) == 4, "equal blocks in other places are others"
    assert blocks(b"a" * 1023, "x") == []


def test_renamed_changes_the_model_alone() -> None:
    body = {"model": "a", "messages": [{"role": "user", "content": 'the model "a"'}], "n": 1, "x": {"model": "a"}}
    assert orjson.loads(renamed(orjson.dumps(body), "b")) == body | {"model": "b"}


def test_a_deep_nest_is_no_trap() -> None:
    nest: Any = "x"
    for _ in range(200):
        nest = [nest]
    assert b"x" in text(messages=nest)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "a"]), inner)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(["messages", "prompt", "input", "system", "tools", "max_tokens", "n", "user"]), anything
    )
)
def test_whatever_the_fields_hold_it_is_read(body: dict[str, Any]) -> None:
    """The engine says what is wrong with a request; the picker only must not."""
    found = read(orjson.dumps({"model": "m", **body}))
    assert found.size >= len(found.text) and isinstance(found.most, int)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        read(body)
    except Malformed as error:
        assert str(error)
