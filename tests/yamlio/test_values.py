"""What values mean and where they stand: text stays text, and every entry knows its line."""

from typing import Any

import pytest

from aibrix_compile.diagnostics import Path
from aibrix_compile.yamlio import Document, Map, Plain, Seq, decode, locate, parse, value_at


def document(text: str | bytes) -> Document:
    documents, found = parse(decode(text.encode() if isinstance(text, str) else text, "f.yaml"))
    assert found == []
    (one,) = documents
    return one


@pytest.mark.parametrize(
    "text",
    [
        "NO",
        "yes",
        "on",
        "0777",
        "010",
        "1_000",
        "0x8",
        "0.10",
        "12:30:45",
        "1e3",
        ".inf",
        "2024-01-01",
        "=",
        "true",
        "-1",
    ],
)
def test_yaml_1_1_spellings_stay_text(text: str) -> None:
    value = document(f"a: {text}\n").value["a"]
    assert value == text and type(value) is Plain


@pytest.mark.parametrize("text", ["'NO'", '"NO"', "|-\n  NO\n", ">-\n  NO\n"])
def test_quoted_text_is_not_plain(text: str) -> None:
    value = document(f"a: {text}\n").value["a"]
    assert value == "NO" and type(value) is str


@pytest.mark.parametrize("text", ["", "~", "null", "Null", "NULL"])
def test_nulls(text: str) -> None:
    assert document(f"a: {text}\n").value == {"a": None}
    assert document(f"a: '{text}'\n").value == {"a": text}


def test_keys_are_text_whatever_they_look_like() -> None:
    assert list(document("NO: 1\n0x8: 2\nnull: 3\n'<<': 4\n1.0: 5\n").value) == ["NO", "0x8", "null", "<<", "1.0"]


def test_collections() -> None:
    value = document("a: [1, {b: c}]\n").value
    assert type(value) is Map and type(value["a"]) is Seq and type(value["a"][1]) is Map


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", []),
        ("# only a comment\n", []),
        ("---\n", [None]),
        ("---\n---\n", [None, None]),
        ("a: 1\n---\nb: 2\n...\n---\n[c]\n", [{"a": "1"}, {"b": "2"}, ["c"]]),
        ("%YAML 1.2\n---\na: 1\n", [{"a": "1"}]),
        ("\ufeffa: 1\n", [{"a": "1"}]),
        ("a: 1\r\nb:\r\n  - 2\r\n", [{"a": "1", "b": ["2"]}]),
        ("text", ["text"]),
    ],
)
def test_documents(text: str, values: list[Any]) -> None:
    documents, found = parse(decode(text.encode(), "f.yaml"))
    assert [one.value for one in documents] == values and found == []


TEXT = """\
plain: value   # a comment
"quoted key": 'single'
flow: {a: 1, b: [x, "y z"], "ü": 𝒳𝒳, e: }
block:
  inner:
    - first
    - name: n
      list:
      - deep
  "multi": one
    two
literal: |
  line
  line
folded: >-
  line
double: "begins
  ends"
open: [
  1,
]
empty:
alias: &x word
again: *x
"""


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("plain",), "1:8-1:13", "1:1-1:6"),
        (("quoted key",), "2:15-2:23", "2:1-2:13"),
        (("flow",), "3:7-3:42", "3:1-3:5"),
        (("flow", "a"), "3:11-3:12", "3:8-3:9"),
        (("flow", "b"), "3:17-3:27", "3:14-3:15"),
        (("flow", "b", 0), "3:18-3:19", "3:18-3:19"),
        (("flow", "b", 1), "3:21-3:26", "3:21-3:26"),
        (("flow", "ü"), "3:34-3:36", "3:29-3:32"),
        (("block",), "4:1-4:6", "4:1-4:6"),
        (("block", "inner"), "5:3-5:8", "5:3-5:8"),
        (("block", "inner", 0), "6:7-6:12", "6:7-6:12"),
        (("block", "inner", 1), "7:7-7:14", "7:7-7:14"),
        (("block", "inner", 1, "name"), "7:13-7:14", "7:7-7:11"),
        (("block", "inner", 1, "list"), "8:7-8:11", "8:7-8:11"),
        (("block", "inner", 1, "list", 0), "9:9-9:13", "9:9-9:13"),
        (("block", "multi"), "10:12-10:15", "10:3-10:10"),
        (("literal",), "12:10-12:11", "12:1-12:8"),
        (("folded",), "15:9-15:11", "15:1-15:7"),
        (("double",), "17:9-17:16", "17:1-17:7"),
        (("open",), "19:7-19:8", "19:1-19:5"),
        (("open", 0), "20:3-20:4", "20:3-20:4"),
        (("empty",), "22:7-22:8", "22:1-22:6"),
        (("alias",), "23:8-23:15", "23:1-23:6"),
        (("again",), "24:8-24:10", "24:1-24:6"),
        # what is not there is at its nearest ancestor: the key of a block, the text of anything else
        (("plain", "x"), "1:8-1:13", "1:8-1:13"),
        (("flow", "z", "y"), "3:1-3:5", "3:1-3:5"),
        (("block", "z"), "4:1-4:6", "4:1-4:6"),
        (("block", "inner", 9), "5:3-5:8", "5:3-5:8"),
        (("flow", "b", "x"), "3:14-3:15", "3:14-3:15"),
        (("nothing",), "1:1-1:27", "1:1-1:27"),
    ],
)
@pytest.mark.parametrize("crlf", [False, True], ids=["lf", "crlf"])
def test_places(path: Path, value: str, key: str, crlf: bool) -> None:
    where = document(TEXT.replace("\n", "\r\n") if crlf else TEXT)
    for at_key, expected in ((False, value), (True, key)):
        span = locate(where, path, at_key)
        assert f"{span.line}:{span.column}-{span.end_line}:{span.end_column}" == expected


def test_places_are_those_of_an_editor() -> None:
    """libyaml ends lines at U+0085, U+2028, U+2029 and a lone CR; editors do not, so lines are counted anew."""
    for odd in "\x85\u2028\u2029":
        where = document(f"# {odd}{odd}\na:\n  bb: ccc\nd: [e,\n f]\n")
        spans = [locate(where, path) for path in (("a", "bb"), ("d",), ("d", 1))]
        assert [(s.line, s.column, s.end_line, s.end_column) for s in spans] == [
            (3, 7, 3, 10),
            (4, 4, 4, 7),
            (5, 2, 5, 3),
        ]


def test_value_at() -> None:
    where = document(TEXT)
    assert value_at(where, ("flow", "b", 1)) == "y z"
    assert value_at(where, ()) is where.value
    assert [value_at(where, path) for path in (("x",), ("flow", "b", 7), ("plain", 0), ("flow", 0), ("empty",))] == [
        None
    ] * 5
