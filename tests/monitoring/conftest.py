"""Prometheus' own tools, built once into the cache folder: promtool, and its parser as a reader of selectors."""

import shutil
from pathlib import Path

import pytest

from tests.toolchain import Missing, absent, built

VERSION = "v0.305.0"  # Prometheus 3.5, with long-term support
READER = """package main

import (
	"bufio"
	"encoding/json"
	"os"

	"github.com/prometheus/prometheus/promql/parser"
)

type selector struct {
	Name     string            `json:"name"`
	Matchers map[string]string `json:"matchers"`
}

type answer struct {
	Error     string     `json:"error"`
	Selectors []selector `json:"selectors"`
}

// Reads JSON strings, one expression each, and prints the series that each selects: "=value" by label.
func main() {
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	in.Buffer(make([]byte, 1<<20), 1<<24)
	for in.Scan() {
		var text string
		if err := json.Unmarshal(in.Bytes(), &text); err != nil {
			panic(err)
		}
		found := answer{Selectors: []selector{}}
		expression, err := parser.ParseExpr(text)
		if err != nil {
			found.Error = err.Error()
		} else {
			parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
				if vector, ok := node.(*parser.VectorSelector); ok {
					one := selector{Name: vector.Name, Matchers: map[string]string{}}
					for _, matcher := range vector.LabelMatchers {
						one.Matchers[matcher.Name] = matcher.Type.String() + matcher.Value
					}
					found.Selectors = append(found.Selectors, one)
				}
				return nil
			})
		}
		out.Encode(found)
	}
}
"""


_MODULE = f"module tools\n\ngo 1.23\n\nrequire github.com/prometheus/prometheus {VERSION}\n"


def _built(name: str, package: str) -> Path:
    try:
        return built(f"prometheus-{VERSION}", {name: package}, module=_MODULE, sources={"reader/main.go": READER})[name]
    except Missing as missing:
        absent(str(missing))


@pytest.fixture(scope="session")
def promql_reader() -> Path:
    return _built("reader", "./reader")


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Of this machine, else built: minutes the first time, 110 MB."""
    found = shutil.which("promtool")
    return Path(found) if found else _built("promtool", "github.com/prometheus/prometheus/cmd/promtool")
