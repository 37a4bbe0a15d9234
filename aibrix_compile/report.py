"""Findings as people and machines read them: pretty for a terminal, JSON, GitHub annotations, SARIF 2.1.0.

Findings quote specs, and specs may be hostile: nothing that reaches a terminal or a CI log can be taken for a command.
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

from aibrix_compile.diagnostics import Diagnostic, Severity, Span
from aibrix_compile.emit import json_text

_COLORS = {Severity.ERROR: "1;31", Severity.WARNING: "1;33"}
_SHOWN = 100  # more than anybody reads on a terminal
_CI_COMMAND = re.compile(r"##(?=\w*\[)")  # ##[name] and ##system[name]: CI systems obey them anywhere in a line
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))  # categories that would move the cursor or turn the text round
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def pretty(diagnostics: Sequence[Diagnostic], sources: Mapping[str, str], *, color: bool, width: int) -> str:
    """The first findings with their lines, reasons and fixes; then a summary. `sources` maps file names to their text."""

    @cache
    def lines(file: str) -> list[str]:
        return sources.get(file, "").split("\n")

    blocks = ["\n".join(_block(one, lines, color, width)) + "\n" for one in diagnostics[:_SHOWN]]
    if len(diagnostics) > _SHOWN:
        blocks.append(f"... and {len(diagnostics) - _SHOWN} more; --format json prints all\n")
    return "\n".join(blocks) + "\n" + _summary(diagnostics) + "\n"


def _block(one: Diagnostic, lines: Callable[[str], list[str]], color: bool, width: int) -> Iterator[str]:
    def paint(text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if color else text

    head = f"{one.severity}[{one.code}]"
    yield f"{paint(head, _COLORS[one.severity])}: {paint(_safe(one.message), '1')}"
    gutter = len(str(max(one.span.line, *(related.span.line for related in one.related), 0)))
    places = [(one.span, "", "^", _COLORS[one.severity])]
    places += [(related.span, related.message, "-", "1;34") for related in one.related]
    for span, note, mark, code in places:
        yield f"{' ' * gutter}{paint('-->', '34')} {_safe(span.file)}:{span.line}:{span.column}"
        line = "".join(lines(span.file)[span.line - 1 : span.line]).rstrip("\r")
        if not line.strip():
            if note:
                yield f"{' ' * gutter} {paint('=', '34')} note: {_safe(note)}"
            continue
        text, indent, length = _clip(line, span, max(20, width - gutter - 3))
        bar = paint("|", "34")
        yield f"{' ' * gutter} {bar}"
        yield f"{paint(str(span.line).rjust(gutter), '34')} {bar} {text}"
        yield f"{' ' * gutter} {bar} {' ' * indent}{paint(mark * length, code)}{' ' + paint(_safe(note), code) if note else ''}"
    for label, text in (("help", one.hint), ("in", ", ".join(one.environments))):
        if text:
            wrapped = textwrap.wrap(
                _safe(text), max(30, width - len(label) - 2), break_long_words=False, break_on_hyphens=False
            )
            yield f"{paint(label, '1;32')}: " + f"\n{' ' * (len(label) + 2)}".join(map(_no_command, wrapped))


def _summary(diagnostics: Sequence[Diagnostic]) -> str:
    counts = [(sum(d.severity is severity for d in diagnostics), severity.value) for severity in Severity]
    return ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count)


def _clip(line: str, span: Span, room: int) -> tuple[str, int, int]:
    """The part of a line around its span that takes `room` columns, the columns before the span and those of the span."""
    start = min(span.column - 1, len(line))
    end = min(len(line), span.end_column - 1) if span.end_line == span.line else len(line)
    first, last = 0, len(line)
    if len(line) > room or _columns(line) > room:
        room, near = room - 2, 4 * room  # two columns for the dots; combining characters take none
        last = start + _fitting(line[start : start + near], room * 2 // 3)
        first = start - _fitting(line[max(0, start - near) : start][::-1], room - _columns(line[start:last]))
        last = max(last, first + _fitting(line[first : first + near], room))
    before, rest = "…" if first else "", "…" if last < len(line) else ""
    shown = before + _visible(line[first:last]) + rest
    return shown, _columns(before + line[first:start]), max(1, _columns(line[start : min(max(start + 1, end), last)]))


def _fitting(text: str, room: int) -> int:
    """How many characters of the text take at most `room` columns."""
    for count, character in enumerate(text):
        room -= _columns(character)
        if room < 0:
            return count
    return len(text)


def _columns(text: str) -> int:
    """Columns that the text takes on a terminal."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in _visible(text)
    )


def _visible(text: str) -> str:
    """The text with nothing in it that a terminal or a CI log would obey."""
    return _CI_COMMAND.sub(r"#\\u{23}", "".join(map(_glyph, text)))


def _glyph(character: str) -> str:
    if character == "\t":
        return "    "
    return f"\\u{{{ord(character):x}}}" if unicodedata.category(character) in _UNSEEN else character


def _safe(text: str) -> str:
    return _visible(text.replace("\n", " "))


def _no_command(line: str) -> str:
    """GitHub obeys `::name::` at the start of a line, after any space."""
    return re.sub(r"^(\s*):(?=:)", r"\1\\u{3a}", line)


def as_json(diagnostics: Sequence[Diagnostic]) -> str:
    """A list of findings; positions are 1-based, ends exclusive."""
    return _json([_data(one) for one in diagnostics])


def _json(value: Any) -> str:
    """JSON that any stream can take: a file name that is not UTF-8 has lone surrogates, which stay escaped."""
    return json_text(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _data(one: Diagnostic) -> dict[str, Any]:
    return {
        "code": one.code,
        "severity": one.severity.value,
        "message": one.message,
        **_position(one.span),
        "hint": one.hint,
        "fix": {**_position(one.fix.span), "text": one.fix.text} if one.fix else None,
        "related": [{**_position(related.span), "message": related.message} for related in one.related],
        "environments": list(one.environments),
    }


def _position(span: Span) -> dict[str, Any]:
    return {
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "endLine": span.end_line,
        "endColumn": span.end_column,
    }


def github(diagnostics: Sequence[Diagnostic]) -> str:
    """Workflow commands, one a finding: GitHub shows them beside the changed lines."""
    return "".join(f"{_command(one)}\n" for one in diagnostics)


def _command(one: Diagnostic) -> str:
    span = one.span
    where = {"file": span.file, "line": span.line, "endLine": span.end_line, "title": one.code}
    if span.end_line == span.line:  # GitHub takes no columns over several lines
        where |= {"col": span.column, "endColumn": max(span.column, span.end_column - 1)}
    properties = ",".join(f"{name}={_escaped(str(text), ':,')}" for name, text in where.items())
    environments = f" (in {', '.join(one.environments)})" if one.environments else ""
    message = "\n".join(text for text in (one.message + environments, one.hint) if text)
    return f"::{one.severity.value} {properties}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return _visible(text)


def sarif(diagnostics: Sequence[Diagnostic], *, version: str, titles: Mapping[str, str]) -> str:
    """A SARIF 2.1.0 log with one run; `titles` maps codes to what they mean."""
    codes = sorted({one.code for one in diagnostics})
    driver = {
        "name": "aibrix-compile",
        "semanticVersion": version,
        "rules": [{"id": code, "shortDescription": {"text": titles.get(code, code)}} for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(one, codes.index(one.code)) for one in diagnostics],
    }
    return _json({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})


def _result(one: Diagnostic, rule: int) -> dict[str, Any]:
    text = one.message + (f"\n{one.hint}" if one.hint else "")
    result: dict[str, Any] = {
        "ruleId": one.code,
        "ruleIndex": rule,
        "level": one.severity.value,
        "message": {"text": text},
        "locations": [{"physicalLocation": _physical(one.span)}],
        "partialFingerprints": {"finding/v1": _fingerprint(one)},
        "properties": {"environments": list(one.environments)},
    }
    if one.related:
        result["relatedLocations"] = [
            {"id": number, "physicalLocation": _physical(related.span), "message": {"text": related.message}}
            for number, related in enumerate(one.related, 1)
        ]
    if one.fix:
        replacement = {"deletedRegion": _region(one.fix.span), "insertedContent": {"text": one.fix.text}}
        change = {"artifactLocation": _uri(one.fix.span.file), "replacements": [replacement]}
        result["fixes"] = [{"description": {"text": one.hint or "apply the fix"}, "artifactChanges": [change]}]
    return result


def _fingerprint(one: Diagnostic) -> str:
    """Stays the same when lines above move."""
    return hashlib.sha256(json.dumps([one.code, one.span.file, one.message]).encode()).hexdigest()[:32]


def _physical(span: Span) -> dict[str, Any]:
    return {"artifactLocation": _uri(span.file), "region": _region(span)}


def _uri(file: str) -> dict[str, str]:
    return {"uri": quote(file, errors="surrogateescape")}


def _region(span: Span) -> dict[str, int]:
    return {"startLine": span.line, "startColumn": span.column, "endLine": span.end_line, "endColumn": span.end_column}
