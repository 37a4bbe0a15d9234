"""The emitter: what it writes, every YAML reader reads back as the same value."""

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrix_compile.emit import json_text, yaml_text

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
]

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
    assert yaml.safe_load(written) == value
    assert [type(one) for one in _leaves(yaml.safe_load(written))] == [type(one) for one in _leaves(value)]
    assert written.endswith("\n") and yaml_text(yaml.safe_load(written)) == written


@pytest.mark.parametrize("word", NASTY)
def test_odd_words_stay_what_they_are(word: str) -> None:
    for value in (word, [word], {word: word}, {"a": [word, {"b": [word]}]}, [[word], []], {"a": {word: {}}}):
        assert yaml.safe_load(yaml_text(value)) == value


def test_what_json_has_not_is_refused() -> None:
    for value in (None, [None], {"a": None}, {1: "a"}, float("nan"), {"a": float("inf")}, {"a": {1, 2}}, b"x"):
        with pytest.raises((TypeError, ValueError)):
            yaml_text(value)
    with pytest.raises(ValueError, match="surrogate"):
        yaml_text({"a": "\ud800"})


def test_the_shape_of_the_text() -> None:
    value = {"a": [{"b": 1, "c": ["x", "--y=z"]}, []], "d": "one\ntwo\n", "e": {}, "f": "no", "g": 0.5, "h": 1e16}
    assert yaml_text(value) == (
        'a:\n  - b: 1\n    c:\n      - x\n      - --y=z\n  - []\nd: |\n  one\n  two\ne: {}\nf: "no"\ng: 0.5\nh: 1.0e+16\n'
    )
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

	"sigs.k8s.io/yaml"
)

// Reads JSON strings, one YAML document each, and prints what Kubernetes' reader makes of them.
func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<24)
	for in.Scan() {
		var text string
		if err := json.Unmarshal(in.Bytes(), &text); err != nil {
			panic(err)
		}
		out, err := yaml.YAMLToJSONStrict([]byte(text))
		if err != nil {
			out, _ = json.Marshal("error: " + err.Error())
		}
		fmt.Println(string(out))
	}
}
"""


@pytest.fixture(scope="session")
def kubernetes_reader() -> Path:
    """sigs.k8s.io/yaml, the reader of kubectl, Argo CD and the API server, built once into the cache folder."""
    if shutil.which("go") is None:
        message = "needs Go (https://go.dev/dl) to build sigs.k8s.io/yaml"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aibrix-compile"
    folder = Path(os.environ.get("AIBRIX_CACHE") or cache) / "yaml-reader-1.6.0"
    binary = folder / "reader"
    if not binary.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "main.go").write_text(READER)
        (folder / "go.mod").write_text("module reader\n\ngo 1.22\n\nrequire sigs.k8s.io/yaml v1.6.0\n")
        command = ["go", "build", "-mod=mod", "-o", str(binary), "."]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return binary


def test_kubernetes_reads_it_back(kubernetes_reader: Path) -> None:
    chooser = random.Random(7)
    values: list[Any] = [{word: [word, {"k": word}], "n": {"a": word}} for word in NASTY if word not in ("<<",)]
    values += [
        {"v": ["".join(chooser.choices("ab:#-'\"{}[],&*!|>%@` \n\t~01.eE+_=xX", k=chooser.randint(1, 8)))]}
        for _ in range(3000)
    ]
    values += [
        {"f": chooser.uniform(-1, 1) * 10 ** chooser.randint(-20, 12), "i": chooser.randint(-(2**53), 2**53)}
        for _ in range(300)
    ]
    lines = "".join(json.dumps(yaml_text(value)) + "\n" for value in values)
    done = subprocess.run([kubernetes_reader], input=lines, capture_output=True, text=True, check=True)
    for value, line in zip(values, done.stdout.rstrip("\n").split("\n"), strict=True):
        assert json.loads(line) == value, yaml_text(value)
