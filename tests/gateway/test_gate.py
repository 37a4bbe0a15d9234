"""The gate's reader of bodies, in Lua 5.1, held against Python's: what it says is what an engine would read, or it refuses."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa import lua51

from aibrix_compile.backends.gateway import gate

_LUA = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
_LUA.execute(b"local PATHS, TABLE = {}, ''\n" + gate.lua().encode())
_READ = _LUA.globals()[b"model_of"]

_TEXT = st.sampled_from(["model", '"', "\\", '"model":"x"', "{", "}", "[", "]", ",", ":", "é", "\u2028", "\n", "a b"])
_STRINGS = st.lists(_TEXT, max_size=4).map("".join)
_KEYS = st.sampled_from(["model", "Model", "messages", "mod", 'z"']) | _STRINGS
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=12,
)
_OBJECTS = st.dictionaries(_KEYS, _VALUES, max_size=5)


def read(body: bytes) -> tuple[str | None, str]:
    """The model, or None and why."""
    found = _READ(body)
    name, why = found if isinstance(found, tuple) else (found, None)
    return (None if name is None else name.decode("utf-8", "replace")), (why or b"").decode()


@given(_OBJECTS, st.booleans(), st.sampled_from([None, 1]))
def test_what_it_reads_is_what_python_reads(value: dict[str, Any], escaped: bool, indent: int | None) -> None:
    model = value.get("model")
    body = json.dumps(value, ensure_ascii=escaped, indent=indent).encode()
    if isinstance(model, str) and model.isascii():
        assert read(body) == (model, "")
    else:
        name, _ = read(body)
        assert name is None or not name.isascii() or isinstance(model, str)


@given(_OBJECTS, st.integers(0, 2**32))
def test_what_is_broken_is_refused_or_read_as_python_reads_it(value: dict[str, Any], seed: int) -> None:
    body, draw = bytearray(json.dumps(value).encode()), random.Random(seed)
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(body) + 1)
        body[at : at + draw.randrange(2)] = draw.choice(
            (b'"', b"\\", b"{", b"]", b",", b'"model":"z",', b"\\u006d", b"\xff")
        )
    name, _ = read(bytes(body))
    if name is None:
        return
    try:
        meant = json.loads(body)
    except ValueError:
        return  # the engine refuses it as well
    assert isinstance(meant, dict)
    assert meant["model"] == name or not name.isascii()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no JSON object"),
        (b"{", "no JSON object"),
        (b"[]", "no JSON object"),
        (b'{"model":"a"', "no JSON object"),
        (b'{"model":"a"}}', "no JSON object"),
        (b'{"model":"a"} {"model":"b"}', "no JSON object"),
        (b'{"model":"a",}', "no JSON object"),
        (b'{"model":"a","x":[1,,2]}', "no JSON object"),
        (b'{"model":"a","x":[}]}', "no JSON object"),
        (b'\xef\xbb\xbf{"model":"a"}', "no JSON object"),
        ('{"model":"a"}'.encode("utf-16"), "no JSON object"),
        (b'{"model":"a"/*"*/}', "no JSON object"),
        (b"{}", "names no model"),
        (b'{"model":5}', "names no model"),
        (b'{"model":["a"]}', "names no model"),
        (b'{"model":{"model":"a"}}', "names no model"),
        (b'{"x":{"model":"a"}}', "names no model"),
        (b'{"model":"a","model":"a"}', "twice"),
        (b'{"model":"a","mod\\u0065l":"b"}', "twice"),
        (b'{"model":"a","x":[' + b'"",' * 200_001 + b'""]}', "too many parts"),
        (b'{"model":"a","x":[' + b"1," * 3_000_000 + b"1]}", "too many parts"),
    ],
)
def test_what_can_be_read_in_two_ways_or_not_at_all_is_refused(body: bytes, why: str) -> None:
    name, found = read(body)
    assert (name, why in found) == (None, True), found


@pytest.mark.parametrize("depth", [1, 17, 300])
def test_depth_is_no_limit(depth: int) -> None:
    nested: Any = []
    for _ in range(depth):
        nested = {"properties": nested}
    assert read(json.dumps({"tools": nested, "model": "deep"}).encode()) == ("deep", "")


def test_the_model_may_stand_last_in_three_megabytes_of_quotes() -> None:
    text = '\\"' * 1_500_000
    assert read(json.dumps({"messages": [{"content": text}], "model": "last"}).encode()) == ("last", "")
