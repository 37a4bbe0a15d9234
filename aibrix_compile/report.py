"""Findings as people and machines read them: pretty for a terminal, JSON, GitHub annotations, SARIF 2.1.0.

Findings quote specs, and specs may be hostile: nothing that reaches a terminal or a CI log can be taken for a command.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from aibrix_compile.diagnostics import Diagnostic, Severity, Span
from aibrix_compile.emit import json_text

_COLORS = {Severity.ERROR: "1;31", Severity.WARNING: "1;33"}
_SHOWN = 100  # more than anybody reads on a terminal
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def pretty(diagnostics: Sequence[Diagnostic], sources: Mapping[str, str], *, color: bool, width: int) -> str:
    """The first findings with their lines, reasons and fixes; then a summary. `sources` maps file names to their text."""
    blocks = ["\n".join(_block(one, sources, color, width)) + "\n" for one in diagnostics[:_SHOWN]]
    if len(diagnostics) > _SHOWN:
        blocks.append(f"... and {len(diagnostics) - _SHOWN} more; --format json prints all\n")
    return "\n".join(blocks) + "\n" + _summary(diagnostics) + "\n"


def _block(one: Diagnostic, sources: Mapping[str, str], color: bool, width: int) -> Iterator[str]:
    def paint(text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if color else text

    head = f"{one.severity}[{one.code}]"
    yield f"{paint(head, _COLORS[one.severity])}: {paint(_safe(one.message), '1')}"
    gutter = len(str(max(one.span.line, *(related.span.line for related in one.related), 0)))
    places = [(one.span, "", "^", _COLORS[one.severity])]
    places += [(related.span, related.message, "-", "1;34") for related in one.related]
    for span, note, mark, code in places:
        yield f"{' ' * gutter}{paint('-->', '34')} {_safe(span.file)}:{span.line}:{span.column}"
        lines = sources.get(span.file, "").split("\n")
        if span.line > len(lines) or not lines[span.line - 1].strip():
            if note:
                yield f"{' ' * gutter} {paint('=', '34')} note: {_safe(note)}"
            continue
        text, indent, length = _clip(lines[span.line - 1].rstrip("\r"), span, max(20, width - gutter - 4))
        bar = paint("|", "34")
        yield f"{' ' * gutter} {bar}"
        yield f"{paint(str(span.line).rjust(gutter), '34')} {bar} {text}"
        yield f"{' ' * gutter} {bar} {' ' * indent}{paint(mark * length, code)}{' ' + paint(_safe(note), code) if note else ''}"
    for label, text in (("help", one.hint), ("in", ", ".join(one.environments))):
        if text:
            wrapped = textwrap.wrap(
                _safe(text), max(30, width - len(label) - 2), break_long_words=False, break_on_hyphens=False
            )
            yield f"{paint(label, '1;32')}: " + f"\n{' ' * (len(label) + 2)}".join(wrapped)


def _summary(diagnostics: Sequence[Diagnostic]) -> str:
    counts = [(sum(d.severity is severity for d in diagnostics), severity.value) for severity in Severity]
    return ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count)


def _clip(line: str, span: Span, room: int) -> tuple[str, int, int]:
    """The part of a line around its span as it is shown, the columns before the span and the columns of the span."""
    start = span.column - 1
    end = min(len(line), span.end_column - 1) if span.end_line == span.line else len(line)
    first = max(0, start - room // 3) if len(line) > room else 0
    shown = line[first : first + room]
    before, marked = shown[: start - first], shown[start - first : max(start + 1, end) - first]
    dots = "…" if first else ""
    rest = "…" if first + room < len(line) else ""
    return dots + _visible(shown) + rest, len(dots) + _columns(before), max(1, _columns(marked))


def _visible(text: str) -> str:
    return "".join(_glyph(character) for character in text)


def _columns(text: str) -> int:
    """Columns that the text takes on a terminal."""
    glyphs = _visible(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in glyphs)


def _glyph(character: str) -> str:
    if character == "\t":
        return "    "
    if unicodedata.category(character) in (
        "Cc",
        "Cf",
        "Cs",
        "Zl",
        "Zp",
    ):  # would move the cursor or turn the text round
        return f"\\u{{{ord(character):x}}}"
    return character


def _safe(text: str) -> str:
    return _visible(text.replace("\n", " "))


def as_json(diagnostics: Sequence[Diagnostic]) -> str:
    """A list of findings; positions are 1-based, ends exclusive."""
    return json_text([_data(one) for one in diagnostics])


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
    where = {"file": span.file, "line": span.line, "endLine": span.end_line, "col": span.column, "title": one.code}
    if span.end_line == span.line:  # GitHub refuses endColumn over several lines
        where["endColumn"] = span.end_column - 1
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
    return json_text({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})


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
    return {"uri": quote(file)}


def _region(span: Span) -> dict[str, int]:
    return {"startLine": span.line, "startColumn": span.column, "endLine": span.end_line, "endColumn": span.end_column}
