"""Comments that waive a warning where it stands: `# aibrix: ignore[AC217] the vendor moves it on purpose`.

On the line where the finding begins, or among the comment lines directly above it. Only warnings of meaning (AC2xx) and
capacity (AC3xx) are waived, each with a reason; what waives nothing any more is a warning itself, so none is left behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aibrix_compile.codes import TITLES
from aibrix_compile.diagnostics import Diagnostic, Severity, Span
from aibrix_compile.yamlio import SourceFile, comments

_BEGINS = re.compile(r"#[ \t]*aibrix[ \t]*:[ \t]*ignore\b", re.IGNORECASE)
_WHOLE = re.compile(r"#[ \t]*aibrix:[ \t]*ignore\[(?P<codes>[^\]]*)\](?P<reason>.*)", re.DOTALL)
_WORD = re.compile(r"[^\s,]+")
_EXAMPLE = "# aibrix: ignore[AC217] reason"

Key = tuple[str, Span]
"""What makes a finding one: its code and its place."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """One code of one comment: `span` is where it is written, `line` the line for which it speaks."""

    code: str
    span: Span
    line: int


def mentioned(text: str) -> bool:
    """Whether a file may hold ignores at all; most hold none, and their comments need not be found."""
    return _BEGINS.search(text) is not None


def judge(
    found: Iterable[Diagnostic], sources: Iterable[SourceFile], complete: bool
) -> tuple[set[Key], list[Diagnostic]]:
    """The findings that are waived, and what is wrong with the ignores in `sources`.

    `complete`: nothing was left out and nothing hidden by a mistake, so what waives nothing is not needed.
    """
    said: list[Diagnostic] = []
    ignores = [one for source in sources for one in _read(source, said)]
    by_place: dict[tuple[str, int, str], list[Ignore]] = {}
    for ignore in ignores:
        by_place.setdefault((ignore.span.file, ignore.line, ignore.code), []).append(ignore)
    waived: set[Key] = set()
    needed: set[Ignore] = set()
    elsewhere: dict[tuple[str, str], int] = {}
    for one in found:
        here = by_place.get((one.span.file, one.span.line, one.code), ())
        needed.update(here)
        if one.severity is not Severity.WARNING:
            said += [
                _not_allowed(ignore.span, f"{ignore.code} is an error here", f"correct what {ignore.code} says")
                for ignore in here
            ]
        elif here:
            waived.add((one.code, one.span))
        else:
            elsewhere.setdefault((one.span.file, one.code), one.span.line)
    if complete:
        said += [_unneeded(one, elsewhere.get((one.span.file, one.code))) for one in ignores if one not in needed]
    return waived, said


def _read(source: SourceFile, said: list[Diagnostic]) -> Iterator[Ignore]:
    """The ignores of a file; what is wrong with them goes to `said`."""
    found = comments(source)
    lines = source.text.split("\n")
    alone = {line for line, column, _ in found if not lines[line - 1][: column - 1].strip()}
    for line, column, text in found:
        if not _BEGINS.match(text):
            continue

        def span(start: int, end: int, line: int = line, column: int = column) -> Span:
            return Span(source.name, line, column + start, line, column + end)

        whole = _WHOLE.match(text)
        words = list(_WORD.finditer(text, *whole.span("codes"))) if whole else []
        if whole is None or not words:
            said.append(_not_allowed(span(0, len(text)), "an ignore names its codes in brackets", f"write {_EXAMPLE}"))
            continue
        if not any(character.isalnum() for character in whole["reason"]):
            hint = "say after the bracket why the finding is of no concern here"
            said.append(_not_allowed(span(0, len(text)), "an ignore gives its reason", hint))
        target = line
        while target in alone:
            target += 1
        for word in words:
            code, place = word.group(), span(*word.span())
            if code not in TITLES:
                hint = "codes are written as in messages, with commas between them"
                said.append(_not_allowed(place, f'there is no code "{code}"', hint))
            elif code[2] not in "23" or code == "AC226":
                hint = "only warnings of AC2xx and AC3xx can be ignored"
                said.append(_not_allowed(place, f"{code} can not be ignored", hint))
            else:
                yield Ignore(code, place, target)


def _not_allowed(span: Span, message: str, hint: str) -> Diagnostic:
    return Diagnostic("AC126", Severity.ERROR, message, span, hint)


def _unneeded(ignore: Ignore, other: int | None) -> Diagnostic:
    hint = "remove it"
    if other is not None:
        hint = f"move it to line {other}, where {ignore.code} is, or directly above; or remove it"
    return Diagnostic("AC226", Severity.WARNING, f"there is no {ignore.code} to ignore here", ignore.span, hint)
