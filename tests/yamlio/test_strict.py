"""What the reader refuses, each with its code and exact place."""

import time

import pytest

from aibrix_compile import yamlio
from aibrix_compile.diagnostics import CompileError, Diagnostic
from aibrix_compile.yamlio import Document, decode, parse


def read(data: str | bytes) -> tuple[list[Document], list[Diagnostic]]:
    return parse(decode(data.encode() if isinstance(data, str) else data, "f.yaml"))


def refused(data: str | bytes) -> list[Diagnostic]:
    with pytest.raises(CompileError) as caught:
        read(data)
    return list(caught.value.diagnostics)


def at(found: Diagnostic) -> str:
    span = found.span
    assert span.file == "f.yaml"
    return f"{found.code} {span.line}:{span.column}-{span.end_line}:{span.end_column}"


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a:\n\tb: 1\n", "AC001 2:1-2:2", "spaces, not tabs"),
        ("a: b: c\n", "AC001 1:5-1:6", "indentation"),
        ("a: 1\n b: 2\n", "AC001 2:3-2:4", "indentation"),
        ("- a\nb: 1\n", "AC001 2:1-2:2", "indentation"),
        ("x: [a,,b]\n", "AC001 1:7-1:8", "brackets"),
        ("x: [a, b\n", "AC001 2:1-2:2", "brackets"),
        ("a: @x\n", "AC001 1:4-1:5", "quotes"),
        ("a: 1\nname x\nb: 2\nc: 3\n", "AC001 2:1-2:2", "space after the colon"),
        ('a: 1\nb: "x\nc: 2\nd: 3\n', "AC001 2:4-2:5", "close the quote"),
        ("a: 'x\nb: 1\n", "AC001 1:4-1:5", "close the quote"),
        ("é: 1\n𝒳𝒳: b: c\n", "AC001 2:6-2:7", "indentation"),
        (": 1\n", "AC001 1:1-1:2", "indentation"),
        ('a: "\\ud800"\n', "AC001 1:7-1:8", "quotes"),
        ("%YAML 2.0\n---\na: 1\n", "AC001 1:1-1:2", ""),
        ("a: *b\n", "AC005 1:4-1:6", "anchor"),
        ("a: &x [*x]\n", "AC005 1:8-1:10", "anchor"),
        ("a: x\0y\n", "AC003 1:5-1:6", "remove"),
        ("a: 1\nb: \x1b[0m\n", "AC003 2:4-2:5", "remove"),
        ("a: 1\nb: x\x80\n", "AC003 2:5-2:6", "remove"),
        ("a: x\ufeffy\n", "AC003 1:5-1:6", "remove"),
    ],
)
def test_what_stops_a_file(text: str, where: str, words: str) -> None:
    (found,) = refused(text)
    assert at(found) == where
    assert words in found.hint


@pytest.mark.parametrize(
    ("data", "where", "message"),
    [
        (b"a: \xff\n", "AC003 1:4-1:5", "byte 0xff is not UTF-8"),
        (b"a: 1\n# caf\xe9\nb: 2\n", "AC003 2:6-2:7", "byte 0xe9 is not UTF-8"),
        (b"\xc3\xa9: 1\nb: \xc3", "AC003 2:4-2:5", "byte 0xc3 is not UTF-8"),
        ("a: 1\n".encode("utf-16"), "AC003 1:1-1:2", "byte 0xff is not UTF-8"),
        ("a: 1\n".encode("utf-16-be"), "AC003 1:1-1:2", "control character U+0000 is not allowed in YAML"),
    ],
)
def test_other_encodings(data: bytes, where: str, message: str) -> None:
    (found,) = refused(data)
    assert (at(found), found.message) == (where, message)


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "AC002 3:1-3:2", 'duplicate key "a"'),
        ("x:\n  a: 1\n  'a': 2\n", "AC002 3:3-3:6", 'duplicate key "a"'),
        ("{ü: 1, 𝒳: {}, ü: 2}\n", "AC002 1:15-1:16", 'duplicate key "ü"'),
        ("a: 1\r\nb: 2\r\nb: 3\r\n", "AC002 3:1-3:2", 'duplicate key "b"'),
        ("a: \u2028 1\nb: 2\nb: 3\n", "AC002 3:1-3:2", 'duplicate key "b"'),
        ("<<: {a: 1}\nb: 2\n", "AC005 1:1-1:3", "merge keys (<<) are not supported"),
        ("a: !!str 1\n", "AC005 1:4-1:11", 'YAML tags ("tag:yaml.org,2002:str") are not supported'),
        ("a: ! x\n", "AC005 1:4-1:7", 'YAML tags ("!") are not supported'),
        ("a: !!map {b: 1}\n", "AC005 1:4-1:11", 'YAML tags ("tag:yaml.org,2002:map") are not supported'),
        ("!k a: 1\n", "AC005 1:1-1:5", 'YAML tags ("!k") are not supported'),
        ("? [a, b]\n: c\n", "AC005 1:3-1:4", "a key must be plain text"),
        ("a: &x b\n*x : c\n", "AC005 2:1-2:3", "a key must be plain text"),
        ('a: "x\\0y"\n', "AC003 1:4-1:10", "control character U+0000 is not allowed"),
        ('"a\\e": 1\n', "AC003 1:1-1:6", "control character U+001B is not allowed"),
    ],
)
def test_what_is_found_and_read_past(text: str, where: str, message: str) -> None:
    documents, (found,) = read(text)
    assert len(documents) == 1
    assert (at(found), found.message) == (where, message)
    assert found.hint


def test_a_duplicate_shows_the_first_and_keeps_it() -> None:
    (document,), (found,) = read("a: 1\nb: {c: 1}\n\na: 2\n")
    assert document.value == {"a": "1", "b": {"c": "1"}}
    (related,) = found.related
    assert (related.span.line, related.span.column, related.message) == (1, 1, "first set here")


def test_all_findings_of_a_file_at_once() -> None:
    _, found = read("a: !x 1\na: 2\n<<: 3\n? {}\n: 4\nb: {c: 1, c: 2}\n")
    assert [at(one).partition("-")[0] for one in found] == [
        "AC005 1:4", "AC002 2:1", "AC005 3:1", "AC005 4:3", "AC002 6:11",
    ]  # fmt: skip


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("text", [nested(64), "a: " + nested(63), "- " * 63 + "[]"])
def test_the_deepest_that_is_read(text: str) -> None:
    assert read(text)[1] == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (nested(65), "AC004 1:65-1:66"),
        ("a: " + nested(64), "AC004 1:67-1:68"),
        ("- " * 65 + "x", "AC004 1:129-1:130"),
        ("a: &a " + nested(40) + "\nb: " + "[" * 30 + "*a" + "]" * 30, "AC004 2:34-2:36"),
        ("[" * 100_000, "AC004 1:1000-1:1001"),
    ],
)
def test_too_deep(text: str, where: str) -> None:
    (found,) = refused(text)
    if len(text) > 10_000:  # libyaml's own limit comes first, wherever it is
        assert found.code == "AC004"
    else:
        assert at(found) == where
        assert found.message == "nested deeper than 64 levels"


def test_depth_that_aliases_add_up_to() -> None:
    """Each link is within the limit; the chain would be 2,000 levels deep, and every walk over it recursive."""
    links = ["a0: &a0 " + nested(20)] + [
        f"a{i}: &a{i} {'[' * 20}*a{i - 1}{']' * 20}" for i in range(1, 100)
    ]  # fmt: skip
    (found,) = refused("\n".join(links))
    assert at(found) == "AC004 4:29-4:32"
    assert found.message == "nested deeper than 64 levels"


def test_an_alias_is_counted_where_it_stands() -> None:
    assert read("a: &a " + nested(60) + "\nb: [[*a]]")[1] == []
    assert read("a: [" + nested(60) + ", &x []]\nb: " + "[" * 60 + "*x" + "]" * 60)[1] == []


def test_anchors_and_aliases() -> None:
    (document,), found = read("a: &x {b: 1}\nc: [*x, *x]\nd: &y z\ne: *y\n")
    assert found == []
    assert document.value == {"a": {"b": "1"}, "c": [{"b": "1"}, {"b": "1"}], "d": "z", "e": "z"}


def test_anchors_end_with_their_document() -> None:
    (found,) = refused("a: &x 1\n---\nb: *x\n")
    assert at(found) == "AC005 3:4-3:6"


def test_billion_laughs() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    start = time.process_time()
    (found,) = refused("\n".join(lines))
    assert found.code == "AC004"
    assert found.span.line == 6
    assert "aliases" in found.message
    assert time.process_time() - start < 5


def test_size() -> None:
    assert read("a: " + "x" * (yamlio.MAX_BYTES - 3))[1] == []
    (found,) = refused("a: " + "x" * (yamlio.MAX_BYTES - 2))
    assert at(found) == "AC004 1:1-1:2"
    assert "2048 KiB" in found.message


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\n" * 200_000,  # one finding a line
        "a: 1\n" * 200_000 + "# \u2028",  # and places are counted anew
        "- !x y\n" * 150_000,
        "<<: a\n" * 200_000,
        "- x\n" * 400_000,
        "---\n" * 500_000,
        "".join(f"%TAG !{i}! x\n" for i in range(100_000)) + "---\na: 1",  # libyaml compares all with all
        "{" * 1_000_000,
        "? " * 900_000,
        'a: "' + "\\n" * 900_000,
        "a: " + "x " * 900_000,
    ],
    ids=lambda text: text[:8].strip(),
)
def test_no_file_takes_long(text: str) -> None:
    start = time.process_time()
    try:
        read(text)
    except CompileError as error:
        assert len(error.diagnostics) <= yamlio.MAX_FINDINGS + 1
    assert time.process_time() - start < 10


def test_findings_end_somewhere() -> None:
    found = refused("a: 1\n" * 5000)
    assert [one.code for one in found] == ["AC002"] * yamlio.MAX_FINDINGS + ["AC004"]
    assert found[-1].span.line == yamlio.MAX_FINDINGS + 2


def test_messages_stay_short() -> None:
    long = "k" * 100_000
    for text in (f"? {long}\n: 1\n? {long}\n: 2\n", f"a: !{long} 1\n"):
        _, (found,) = read(text)
        assert len(found.message) < 200
    assert len(refused(f"a: *{long}\n")[0].message) < 200
