"""A Difference as the comment of a pull request: the verdict first, a table, the risks, and what explains them folded away.

The first line is hidden and names the comment, so that CI finds the one it wrote before. GitHub takes 65,536 characters: the
comment stays below 60,000, whatever the specs are, by leaving out whole sections from the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from aibrix_compile.diagnostics import Diagnostic, UsageError
from aibrix_compile.diff import words
from aibrix_compile.diff.difference import Difference
from aibrix_compile.diff.quoting import code, html
from aibrix_compile.diff.verdict import verdict

LIMIT = 60_000
_TABLE, _RISKS = 25_000, 15_000
"""Characters that the parts in the open may take."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")


def marker(suffix: str = "") -> str:
    """The hidden line. UsageError for a suffix that could end it."""
    if suffix and not (_ID.match(suffix) and "--" not in suffix):
        raise UsageError(f"--id {suffix!r} is no name: use letters, digits, dots and single dashes")
    return f"<!-- aibrix-compile:diff{f':{suffix}' if suffix else ''} -->"


def markdown(found: Difference, suffix: str = "") -> str:
    """Always below LIMIT characters."""
    risks = [f"- {risk}\n" for risk in words.risks(found, code)]
    parts = [marker(suffix), f"\n**{verdict(found, code, len(risks))}**\n"]
    if found.services:
        rows = [_row(cells) for cells in words.rows(found, code)]
        parts += [
            "\n",
            _row(words.HEADER),
            _row("---" for _ in words.HEADER),
            *_fitting(rows, _TABLE, _row(["... {} more rows"])),
        ]
    if risks:
        parts += [f"\n{len(risks)} risk{'s' * (len(risks) != 1)}:\n\n", *_fitting(risks, _RISKS, "- ... {} more\n")]
    return _with_sections("".join(parts), map(_folded, words.sections(found, code, html, 200)))


def failed(sides: Sequence[tuple[str, Sequence[Diagnostic]]], suffix: str = "") -> str:
    """The comment where there is nothing to compare: each side that does not compile, and its errors."""
    parts = [marker(suffix)]
    for name, errors in sides:
        lines = [f"- {one.code} {code(f'{one.span.file}:{one.span.line}')}: {code(one.message)}\n" for one in errors]
        parts.append(f"\n**{code(name)} does not compile: {len(errors)} error{'s' * (len(errors) != 1)}**\n\n")
        parts += _fitting(lines, _TABLE, "- ... {} more\n")
    return "".join(parts)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _fitting(items: Sequence[str], room: int, more: str) -> Iterator[str]:
    for index, item in enumerate(items):
        room -= len(item)
        if room < 0:
            yield more.format(len(items) - index)
            return
        yield item


def _folded(section: words.Section) -> str:
    lines = "".join(f"- {line}\n" for line in section.lines)
    return f"\n<details><summary>{section.title}</summary>\n\n{lines}\n</details>\n"


def _with_sections(head: str, sections: Iterable[str]) -> str:
    parts, length, left_out = [head], len(head), 0
    for section in sections:
        length += len(section)
        if length > LIMIT - len(_LEFT_OUT) - 20:
            left_out += 1
        else:
            parts.append(section)
    return "".join(parts) + (_LEFT_OUT.format(left_out) if left_out else "")


_LEFT_OUT = "\n{} more sections do not fit here; `aibrix-compile diff` prints all of them.\n"
