"""The emitter: what it writes, every YAML reader reads back as the same value."""

import json
import random
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrix_compile.emit import json_text, yaml_text
from tests.toolchain import Missing, absent, built

NASTY = """
yes no on off ~ null Null NULL true True y N 0x1F 1_000 12:30:45 1e3 .5 = << 2026-01-01 - ? +1 0o7 08 1. 1e5 -.inf .nan
0b1 --- ... a: a:b @x `x %x !x &x *x | > ' " { [ ] , 010 0.10 1.10 1d e1 _1 v1 1Gi infinity Infinity NaN --x --x=a: -x
sha256:abc http://a/b a/b:c@d 1:2 k=v a,b key:value #x /# ~x 0 -0 007 1e -- -1 0x 1,000 1_0.5 3.14 .inf +.INF
""".split()
NASTY += [
    "",
    " ",
    "a: b",
    "a #b",
    " x",
    "x ",
    "\t",
    "a\tb",
    "é",
    "\u0085",
    "\u2028",
    "\ufeff",
    "😀",
    "\x7f",
    "\x00",
    "\x1b[31m",
    "…",
    "\xa0",
    "\u2029",
    "\uffff",
    "\U0001ffff",
    "one \u202etwo",
]
NASTY += [
    "a\n",
    "a\n\nb\n\n",
    " a\nb",
    "\n",
    "\n\n",
    "a:\nb",
    "a\n\x85",
    "a\r\nb",
    "k: v\n",
    "- a\n- b",
    "a\n ",
    "a\n\tb\n",
    "#\n#",
    "a \nb",
    "\na",
    "\n\n a",
    "\ta\nb\n",
    "  a\nb\n\n",
    " \na",
    "a\n\u202eb\n",
    "\n--- a\n...\n",
]
NASTY += [letter * length for letter in "aé" for length in (998, 1022, 1024, 3000)]  # readers look 1024 far for a colon

text = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
scalar = st.one_of(
    text, st.booleans(), st.integers(-(10**18), 10**18), st.floats(allow_nan=False, allow_infinity=False)
)
tree = st.recursive(
    scalar,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4)),
    max_leaves=20,
)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(tree)
def test_python_reads_it_back(value: Any) -> None:
    written = yaml_text(value)
    assert yaml.safe_load(written) == value == yaml.load(written, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert [type(one) for one in _leaves(yaml.safe_load(written))] == [type(one) for one in _leaves(value)]
    assert written.endswith("\n") and yaml_text(yaml.safe_load(written)) == written


@pytest.mark.parametrize("word", NASTY)
def test_odd_words_stay_what_they_are(word: str) -> None:
    nested = {"a": [word, {word: [word], "b": {word: word}}]}
    for value in (word, [word], {word: word}, nested, [[word], []], {"a": {word: {}}}, [{word: [{word: []}]}]):
        assert yaml.safe_load(yaml_text(value)) == value


def test_what_json_has_not_is_refused() -> None:
    for value in (None, [None], {"a": None}, {1: "a"}, float("nan"), {"a": float("inf")}, {"a": {1, 2}}, b"x", (1,)):
        with pytest.raises((TypeError, ValueError)):
            yaml_text(value)
    with pytest.raises(ValueError, match="surrogate"):
        yaml_text({"a": "\ud800"})
    with pytest.raises(TypeError, match="a key is text, not int"):
        yaml_text({"a": [{1: "a"}]})
    with pytest.raises(TypeError, match="can not be written"):
        yaml_text(OrderedDict(a=1))


def test_the_shape_of_the_text() -> None:
    value = {"a": [{"b": 1, "c": ["x", "--y=z"]}, []], "d": "one\ntwo\n", "e": {}, "f": "no", "g": 0.5, "h": 1e16}
    assert yaml_text(value) == (
        'a:\n  - b: 1\n    c:\n      - x\n      - --y=z\n  - []\nd: |\n  one\n  two\ne: {}\nf: "no"\ng: 0.5\nh: 1.0e+16\n'
    )
    assert yaml_text({"b": 1, "a": {"d": 2, "c": 3}}) == "b: 1\na:\n  d: 2\n  c: 3\n"  # the order is the backend's
    assert yaml_text({"a": "  one\ntwo", "b": ["\none\n\n"]}) == "a: |2-\n    one\n  two\nb:\n  - |2+\n\n    one\n\n"
    assert yaml_text([{"k" * 2000: 1}]) == f'- ? "{"k" * 2000}"\n  : 1\n'
    assert (
        yaml_text('a\u202e\x85\t"\\é') == '"a\\u202E\\x85\\t\\"\\\\é"\n'
    )  # what a reviewer can not see is written out
    assert json_text({"é": [1]}) == '{\n  "é": [\n    1\n  ]\n}\n'


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


READER = """package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	yaml3 "gopkg.in/yaml.v3"
	"sigs.k8s.io/yaml"
)

// Reads JSON strings, one YAML document each, and prints what each reader makes of them.
func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<24)
	for in.Scan() {
		var text string
		if err := json.Unmarshal(in.Bytes(), &text); err != nil {
			panic(err)
		}
		fmt.Printf("[%s, %s]\\n", kubernetes(text), third(text))
	}
}

func kubernetes(text string) []byte {
	out, err := yaml.YAMLToJSONStrict([]byte(text))
	return orError(out, err)
}

func third(text string) []byte {
	var value any
	if err := yaml3.Unmarshal([]byte(text), &value); err != nil {
		return orError(nil, err)
	}
	out, err := json.Marshal(value)
	return orError(out, err)
}

func orError(out []byte, err error) []byte {
	if err != nil {
		out, _ = json.Marshal("error: " + err.Error())
	}
	return out
}
"""
MODULE = """module reader

go 1.22

require (
	gopkg.in/yaml.v3 v3.0.1
	sigs.k8s.io/yaml v1.6.0
)
"""


@pytest.fixture(scope="session")
def go_readers() -> Path:
    """sigs.k8s.io/yaml, the reader of kubectl, Argo CD and the API server, and yaml.v3."""
    try:
        return built("yaml-readers-1.6.0", {"readers": "."}, module=MODULE, sources={"main.go": READER})["readers"]
    except Missing as missing:
        absent(str(missing))


PIECES = """
yes no on y n true null nan inf 0x 0b 0o 1 0 12 . - + _ e e5 : # , = ~ @ % a Z / ( ) ; ' " \\ { } [ ] & * ! | > ? `
<< --- ... $ ^ é 漢 😀
""".split()
PIECES += list(" \n\t\r\x00\x1b\x85\xa0\u200b\u202e\u2028\ufeff")


def test_go_reads_it_back(go_readers: Path) -> None:
    chooser = random.Random(7)
    words = NASTY + ["".join(chooser.choices(PIECES, k=chooser.randint(1, 6))) for _ in range(5000)]
    words += ["".join(chooser.choices(" \n\tx#-:", k=chooser.randint(2, 8))) for _ in range(3000)]
    values: list[Any] = [{word: [word, {"k": word, word: word}], "n": [[word], {"a": word}]} for word in words]
    values += [
        [chooser.uniform(-1, 1) * 10 ** chooser.randint(-300, 300), chooser.randint(-(2**63), 2**64 - 1)]
        for _ in range(300)
    ]
    values += [[float(10**power), -float(10**power)] for power in range(40)]
    lines = "".join(json.dumps(yaml_text(value)) + "\n" for value in values)
    done = subprocess.run([go_readers], input=lines, capture_output=True, text=True, encoding="utf-8", check=True)
    for value, line in zip(values, done.stdout.rstrip("\n").split("\n"), strict=True):
        kubernetes, third = json.loads(line)
        if isinstance(value, list):  # Go prints the float 1e+20 as 100000000000000000000
            kubernetes, third = (
                [type(one)(read) for one, read in zip(value, got, strict=True)] for got in (kubernetes, third)
            )
        assert kubernetes == value, yaml_text(value)
        assert third == value, yaml_text(value)
