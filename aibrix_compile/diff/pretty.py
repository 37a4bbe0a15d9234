"""A Difference for a terminal: the same words as the comment, in columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from aibrix_compile.diff import words
from aibrix_compile.diff.difference import Difference
from aibrix_compile.diff.quoting import plain
from aibrix_compile.diff.verdict import verdict

_SHOWN = 100  # rows, risks or sections; more than anybody reads on a terminal


def pretty(found: Difference, *, color: bool) -> str:
    def paint(text: str, how: str) -> str:
        return f"\033[{how}m{text}\033[0m" if color else text

    return "".join(f"{line}\n" for line in _lines(found, paint))


def _lines(found: Difference, paint: Callable[[str, str], str]) -> Iterator[str]:
    rows, risks = words.rows(found, plain), words.risks(found, plain)
    yield paint(verdict(found, plain, len(risks)), "1")
    if rows:
        yield ""
        cells = [words.HEADER, *rows[:_SHOWN]]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield from _more(len(rows))
    if risks:
        yield ""
        yield from (f"{paint('risk', '1;33')}: {risk}" for risk in risks[:_SHOWN])
        yield from _more(len(risks))
    sections = words.sections(found, plain, plain, 10)
    for section in islice(sections, _SHOWN):
        yield ""
        yield paint(section.title, "1")
        yield from (f"  {line}" for line in section.lines)
    if rest := sum(1 for _ in sections):
        yield f"\n... and {rest} more; --format json prints all"


def _more(count: int) -> Iterator[str]:
    if count > _SHOWN:
        yield f"... and {count - _SHOWN} more; --format json prints all"
