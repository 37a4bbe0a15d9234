"""The texts: golden comments of realistic pull requests, what a hostile spec can not do to them, and how long they get."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.diff.difference import (
    AdapterChange,
    AdapterChanges,
    Change,
    Difference,
    EnvironmentRisk,
    Field,
    Kind,
    Line,
    Objects,
    PoolChange,
    Restart,
    Risk,
    ServiceDifference,
    as_data,
)
from aibrix_compile.diff.markdown import markdown, marker
from aibrix_compile.diff.pretty import pretty
from aibrix_compile.diff.prices import Size
from aibrix_compile.diff.quoting import code, html, plain
from tests.diff.requests import COMMENTS, EXPECTED, FORMS, output


@pytest.mark.parametrize("comment", COMMENTS)
def test_golden(comment: str) -> None:
    name, _, suffix = comment.partition(".")
    assert output(name, FORMS[suffix]) == (EXPECTED / comment).read_text("utf-8")


def service(name: str, environment: str = "prod") -> ServiceDifference:
    """A service in which everything is called `name`."""
    return ServiceDifference(
        environment=environment,
        name=name,
        kind=Kind.CHANGED,
        before=Size((1, 1), (1, 1)),
        after=Size((2, 2), (2, 2)),
        changes=(Change(name, name, name, name, (name,)), Change(name, name, name, name)),
        restarts=(Restart(name, (Field(name, name, name, name),), 1, 1, 0, 1, (60, 60)),),
        pools=(PoolChange(name, Kind.NEW, name, 60),),
        adapters=AdapterChanges((name,), (name,), (AdapterChange(name, name),)),
        notes=(Line("{}", (name,)),),
        risks=(Risk("spot", Line("pool {}", (name,))),),
        order=(Line("wave 0: {}", (name,)),),
    )


def difference(name: str) -> Difference:
    objects = Objects((name,), (name,), (name,), (name,))
    return Difference((service(name),), (EnvironmentRisk(name, Risk("surge", Line("{}", (name,)))),), (), objects)


HOSTILE = [
    "@everyone",
    "a|b",
    "a`b",
    "``",
    "`",
    "\\",
    "a\\",
    "<script>alert(1)</script>",
    "--><img src=x>",
    "</summary></details>",
    "[x](https://example.com)",
    "a\n\n# b",
    "\r\n| x | y |",
    "\x1b[31m",
    "\u202etxet",
    "::error::x",
    "##[group]x",
    "",
    " ",
    "{}",
    "{0}",
    "http://example.com www.example.com a@example.com #1",
]
_QUOTED = re.compile(r"`[^`\n]+`|<code>[^<\n]+</code>")


def check(text: str) -> None:
    """Outside of what is quoted there are only our own words, and the table has its columns."""
    body = text.split("\n", 1)[1]
    rest = _QUOTED.sub("", body)
    assert not re.search(r"[@`\\\[\]\x00-\x09\x0b-\x1f\u202e]|https?:|www\.|<(?!/?(?:details|summary)>)", rest), rest
    table = [line for line in body.splitlines() if line.startswith("|") and not line.startswith("| ... ")]
    assert all(line.count("|") == 7 for line in table)
    for inside in _QUOTED.findall(body):
        if inside.startswith("<code>"):
            assert re.fullmatch(r"<code>(?:[A-Za-z0-9 ,/=+(){}'-]|&#\d+;)+</code>", inside), inside
    for opening, closing in (("<details>", "</details>"), ("<summary>", "</summary>")):
        assert rest.count(opening) == rest.count(closing)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_a_name(name: str) -> None:
    check(markdown(difference(name)))
    shown = pretty(difference(name), color=False)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]|::|##\[", shown)


@given(st.text(max_size=20))
def test_any_name_stays_a_name(name: str) -> None:
    check(markdown(difference(name)))


@given(st.text(max_size=40))
def test_html_is_a_code_element_of_entities(text: str) -> None:
    assert re.fullmatch(r"<code>(?:[A-Za-z0-9 ,/=+(){}'-]|&#\d+;)+</code>", html(text))


def test_quotes() -> None:
    assert code("chat-l4") == "`chat-l4`"
    assert code("a|b") == "<code>a&#124;b</code>" == html("a|b")
    assert code("x" * 300) == "`" + "x" * 197 + "...`"
    assert plain("a::b ##[c]") == "a:\\u{3a}b #\\u{23}[c]"


@pytest.mark.parametrize("name", ["chat", "|" * 300, "x" * 300])
def test_a_comment_is_never_too_long(name: str) -> None:
    many = tuple(service(f"{name}{number}", f"{name}{number % 7}") for number in range(500))
    paths = tuple(f"{name}{number}" for number in range(500))
    text = markdown(Difference(many, (), (), Objects(paths, paths, paths, ())))
    check(text)
    assert len(text) < 60_000 and "more rows" in text and re.search(r"\d+ more sections do not fit here", text)
    assert text.count("<details>") + int(re.findall(r"(\d+) more sections", text)[0]) == 501


def test_sections_are_left_out_from_the_end() -> None:
    long = replace(service("long"), notes=tuple(Line(f"{number} {'x' * 100}") for number in range(600)))
    text = markdown(Difference((service("first"), long, service("last")), (), (), Objects()))
    assert "<summary><code>first</code>" in text and "<summary><code>last</code>" not in text
    assert text.endswith("\n2 more sections do not fit here; `aibrix-compile diff` prints all of them.\n")


def test_ten_thousand_adapters_are_counted_and_not_listed() -> None:
    adapters = AdapterChanges(tuple(f"a-{number}" for number in range(10_000)), (), ())
    text = markdown(Difference((replace(service("chat"), adapters=adapters),), (), (), Objects()))
    assert "- 10,000 adapters added: `a-0`" in text and "and 9,980 more" in text and len(text) < 3000


def test_what_environments_have_in_common_is_said_once() -> None:
    three = tuple(service("chat", environment) for environment in ("dev", "staging", "prod"))
    text = markdown(Difference(three, (), (), Objects()))
    assert text.count("<details>") == 1 and text.count("wave 0") == 1
    assert "| `chat` | `dev`, `staging`, `prod` | 1 -> 2 |" in text
    assert "- `chat` in `dev`, `staging`, `prod`: pool `chat`" in text and "only in" not in text


def test_what_is_true_in_one_environment_says_so() -> None:
    two = (service("chat", "dev"), replace(service("chat", "prod"), notes=(Line("another"),)))
    text = pretty(Difference(two, (), (), Objects()), color=False)
    assert "  another - only in prod\n" in text and "  chat - only in dev\n" in text


def test_colour_is_the_callers_choice() -> None:
    assert "\033[" in pretty(difference("chat"), color=True)
    assert "\033[" not in pretty(difference("chat"), color=False)


def test_the_hidden_line() -> None:
    assert marker() == "<!-- aibrix-compile:diff -->" and marker("eu") == "<!-- aibrix-compile:diff:eu -->"
    for wrong in ("a--b", "-->", "a b", "-", "x" * 200):
        with pytest.raises(UsageError):
            marker(wrong)


def test_json_data_is_json(tmp_path: Path) -> None:
    data = json.loads(json.dumps(as_data(difference("chat"))))
    assert data["services"][0]["risks"] == [{"kind": "spot", "line": "pool chat"}]
