"""Findings as text, JSON, annotations and SARIF - and that a hostile spec can not speak through them."""

import json
import re
import unicodedata
from pathlib import Path

import jsonschema
import pytest

from aibrix_compile.diagnostics import Diagnostic, Fix, Related, Severity, Span
from aibrix_compile.report import as_json, github, pretty, sarif

SOURCE = "spec:\n  pools:\n    - {accelerator: nvidia-l44, replicas: 2}\n"
ERROR = Diagnostic(
    "AC206",
    Severity.ERROR,
    'there is no accelerator "nvidia-l44"',
    Span("services/chat.yaml", 3, 21, 3, 31),
    "did you mean nvidia-l4?",
    Fix(Span("services/chat.yaml", 3, 21, 3, 31), "nvidia-l4"),
    (Related(Span("services/chat.yaml", 2, 3, 2, 8), "in this list"),),
    ("staging", "prod"),
)
WARNING = Diagnostic("AC217", Severity.WARNING, "it may move", Span("a b.yaml", 1, 1, 4, 2))
HOSTILE = Diagnostic(
    "AC107", Severity.ERROR, "\x1b[2Jgone\n::error::x\r%", Span("a:b,c\n::set-env.yaml", 1, 3, 1, 5), "\u202efix\x07"
)


def test_pretty() -> None:
    assert pretty([ERROR, WARNING], {"services/chat.yaml": SOURCE}, color=False, width=80) == (
        'error[AC206]: there is no accelerator "nvidia-l44"\n'
        " --> services/chat.yaml:3:21\n"
        "  |\n"
        "3 |     - {accelerator: nvidia-l44, replicas: 2}\n"
        "  |                     ^^^^^^^^^^\n"
        " --> services/chat.yaml:2:3\n"
        "  |\n"
        "2 |   pools:\n"
        "  |   ----- in this list\n"
        "help: did you mean nvidia-l4?\n"
        "in: staging, prod\n"
        "\n"
        "warning[AC217]: it may move\n"
        " --> a b.yaml:1:1\n"
        "\n"
        "1 error, 1 warning\n"
    )


def test_colour_is_only_colour() -> None:
    plain = pretty([ERROR], {"services/chat.yaml": SOURCE}, color=False, width=80)
    colored = pretty([ERROR], {"services/chat.yaml": SOURCE}, color=True, width=80)
    assert "\033[1;31m" in colored and re.sub(r"\033\[[0-9;]*m", "", colored) == plain


@pytest.mark.parametrize(
    ("line", "column", "end", "marks"),
    [
        ("a: \tb", 5, 6, "a:     b\n  |        ^"),
        ("漢字: x", 5, 6, "漢字: x\n  |       ^"),
        ("e\u0301e: x", 6, 7, "e\u0301e: x\n  |     ^"),
        ("a: b\r", 4, 5, "a: b\n  |    ^"),
        ("x" * 500 + "here" + "y" * 500, 501, 505, "^^^^"),
    ],
)
def test_marks_stand_under_what_they_mean(line: str, column: int, end: int, marks: str) -> None:
    finding = Diagnostic("AC101", Severity.ERROR, "m", Span("f", 1, column, 1, end))
    shown = pretty([finding], {"f": line}, color=False, width=80)
    assert marks in shown and all(len(row) <= 90 for row in shown.splitlines())
    row, mark = shown.splitlines()[3:5]
    if "here" in line:
        assert row[mark.index("^") : mark.rindex("^") + 1] == "here"


@pytest.mark.parametrize(
    ("piece", "least"), [("漢字", 50), ("\u202e", 50), ("\t", 50), ("a", 57), ("e\u0301", 50), ("e" + 9 * "\u0301", 20)]
)
@pytest.mark.parametrize(("start", "after"), [(1, 200), (40, 200), (399, 200), (400, 0), (9, 31)])
def test_a_long_line_fits_the_terminal(piece: str, least: int, start: int, after: int) -> None:
    line = (piece * 400)[: start - 1] + "X" + piece * after
    finding = Diagnostic("AC101", Severity.ERROR, "m", Span("f", 1, start, 1, start + 1))
    row, mark = pretty([finding], {"f": line}, color=False, width=60).splitlines()[3:5]
    assert min(least, _width(line)) <= _width(row) <= 60
    assert mark.endswith(" ^") and _width(row[: row.index("X")]) == len(mark) - 1
    if 1 < start < 400:
        assert row.index("X") >= 8 and "X" not in row[-8:]  # some of what stands before it and after it


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def test_a_hostile_spec_can_not_speak_to_the_terminal() -> None:
    shown = pretty([HOSTILE], {"a:b,c\n::set-env.yaml": "x\x1b]0;title\x07\u202e"}, color=False, width=80)
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(shown)
    assert "\\u{1b}" in shown


def test_a_hostile_spec_can_not_speak_to_github() -> None:
    (line,) = github([HOSTILE]).splitlines()
    assert line.startswith("::error file=a%3Ab%2Cc%0A%3A%3Aset-env.yaml,line=1,")
    assert "%0A::error::x" in line and "%25" in line  # one line, so the second command is only text
    assert not {"\x1b", "\x07", "\u202e"} & set(line)


@pytest.mark.parametrize("space", [" ", "\xa0", "\u3000"])
@pytest.mark.parametrize("command", ["::error::x", "##[set-output name=a]b", "##vso[task.setvariable variable=a]b"])
def test_a_hostile_spec_can_not_speak_to_ci_through_the_terminal(command: str, space: str) -> None:
    hostile = f"{'x' * 30} {space}{command} y"
    span = Span(hostile, 1, 3, 1, 5)
    finding = Diagnostic("AC107", Severity.ERROR, hostile, span, hostile, None, (Related(span, hostile),), (hostile,))
    for width in range(40, 130, 3):
        shown = pretty([finding], {hostile: command}, color=False, width=width)
        assert "##[" not in shown and "##vso[" not in shown
        assert not [row for row in shown.splitlines() if row.strip().startswith("::")]


def test_github() -> None:
    assert github([ERROR, WARNING]).splitlines() == [
        "::error file=services/chat.yaml,line=3,endLine=3,title=AC206,col=21,endColumn=30::there is no accelerator"
        + ' "nvidia-l44" (in staging, prod)%0Adid you mean nvidia-l4?',
        "::warning file=a b.yaml,line=1,endLine=4,title=AC217::it may move",
    ]  # over several lines GitHub takes no columns
    assert ",col=5,endColumn=5::" in github([Diagnostic("AC001", Severity.ERROR, "m", Span("f", 1, 5, 1, 5))])


def test_json() -> None:
    first, second = json.loads(as_json([ERROR, WARNING]))
    assert list(first) == [
        *("code", "severity", "message", "file", "line", "column", "endLine", "endColumn"),
        *("hint", "fix", "related", "environments"),
    ]
    assert (first["line"], first["column"], first["endColumn"], first["fix"]["text"]) == (3, 21, 31, "nvidia-l4")
    assert first["related"] == [
        {"file": "services/chat.yaml", "line": 2, "column": 3, "endLine": 2, "endColumn": 8, "message": "in this list"}
    ]
    assert (second["fix"], second["environments"]) == (None, [])
    assert json.loads(as_json([])) == []


def test_a_file_name_that_is_not_utf_8_reaches_every_reader() -> None:
    finding = Diagnostic("AC001", Severity.ERROR, "m", Span("\udcff.yaml", 1, 1, 1, 2))
    for text in (
        pretty([finding], {}, color=False, width=80),
        github([finding]),
        as_json([finding]),
        sarif([finding], version="1", titles={}),
    ):
        assert text.encode("utf-8")
    assert json.loads(as_json([finding]))[0]["file"] == "\udcff.yaml"
    assert '"uri": "%FF.yaml"' in sarif([finding], version="1", titles={})


def test_sarif_fits_the_schema_of_2_1_0() -> None:
    schema = json.loads((Path(__file__).parent / "sarif-2.1.0.schema.json").read_text("utf-8"))
    for findings in ([], [ERROR, WARNING, HOSTILE]):
        log = json.loads(sarif(findings, version="0.1.0", titles={"AC206": "an unknown accelerator"}))
        jsonschema.validate(log, schema)
    run = log["runs"][0]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["AC107", "AC206", "AC217"]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert run["results"][1]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a%20b.yaml"
    fixed, region = run["results"][0], {"startLine": 3, "startColumn": 21, "endLine": 3, "endColumn": 31}
    replacement = fixed["fixes"][0]["artifactChanges"][0]["replacements"][0]
    assert replacement == {"deletedRegion": region, "insertedContent": {"text": "nvidia-l4"}}
    assert fixed["relatedLocations"][0]["physicalLocation"]["region"]["startLine"] == 2
    assert (run["columnKind"], fixed["properties"]) == ("unicodeCodePoints", {"environments": ["staging", "prod"]})


def test_a_fingerprint_survives_lines_above() -> None:
    def fingerprint(line: int) -> str:
        moved = Diagnostic(ERROR.code, ERROR.severity, ERROR.message, Span("f", line, 1, line, 2))
        log = json.loads(sarif([moved], version="1", titles={}))
        return str(log["runs"][0]["results"][0]["partialFingerprints"]["finding/v1"])

    assert fingerprint(3) == fingerprint(30)
