"""Machine-applicable fixes -> files. Only the characters of a fix's span change; every other byte stays as it is.

`applied` is the core: text in, text out. A fix that would take YAML away from a file is left out before anything is
written, and a file is replaced in one step, so an interruption leaves the old text or the new one.
"""

from __future__ import annotations

import codecs
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from aibrix_compile.diagnostics import CompileError, Diagnostic, Fix, Span, UsageError
from aibrix_compile.yamlio import decode, parse

ROUNDS = 5  # a correct name lets its value be judged; nothing hides deeper
_TRIALS = 100  # texts that are parsed to find out which fixes of a file do harm; what is untried then stays a finding


def applied(text: str, fixes: Sequence[Fix]) -> tuple[str, int]:
    """`text` with the fixes in it, and how many they were.

    Of fixes that overlap, the first in the text is taken; of equals, the first given. What changes nothing or lies
    outside the text is passed by.
    """
    lines = _line_starts(text)
    edits = [(*place, fix.text) for fix in fixes if (place := _offsets(text, lines, fix.span)) is not None]
    pieces: list[str] = []
    last = taken = 0
    inserted = -1  # two insertions at one point have no order
    for start, end, new in sorted(edits, key=lambda edit: edit[:2]):
        if start < last or (start == end == inserted) or text[start:end] == new:
            continue
        pieces += (text[last:start], new)
        last, inserted, taken = end, start if start == end else -1, taken + 1
    return "".join((*pieces, text[last:])), taken


def replaceable(text: str, span: Span, written: object) -> bool:
    """Whether `span` is all of the scalar `written`, in quotes or without: not the first line of a longer one, not an
    alias, not what an anchor belongs to."""
    place = _offsets(text, _line_starts(text), span)
    if place is None or not isinstance(written, str):
        return False
    return text[place[0] : place[1]] in (written, f'"{written}"', f"'{written}'")


@lru_cache(4)
def _line_starts(text: str) -> list[int]:
    starts = [0]
    while (newline := text.find("\n", starts[-1])) >= 0:
        starts.append(newline + 1)
    return starts


def _offsets(text: str, lines: Sequence[int], span: Span) -> tuple[int, int] | None:
    """Where a span begins and ends in the text; None when it is none of this text."""
    found = []
    for line, column in ((span.line, span.column), (span.end_line, span.end_column)):
        if not 1 <= line <= len(lines) or column < 1:
            return None
        at = lines[line - 1] + column - 1
        if at > (lines[line] - 1 if line < len(lines) else len(text)):
            return None
        found.append(at)
    return (found[0], found[1]) if found[0] <= found[1] else None


@dataclass(slots=True)
class Fixer:
    """Fixes the files of one project, round by round. `counts` says how many fixes each file has had.

    A text that a file has had before is never written again: two fixes that undo each other end there.
    """

    root: Path
    counts: Counter[str] = field(default_factory=Counter)
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def round(self, sources: Mapping[str, str], diagnostics: Iterable[Diagnostic]) -> bool:
        """Write what the fixes of `diagnostics` change in `sources`; False when that is nothing.

        UsageError, before any file is touched, when one of them can not be written.
        """
        changes = list(self._changes(sources, diagnostics))
        for path, _, _, _ in changes:
            _writable(path)
        for path, name, new, count in changes:
            try:
                _replace(path, sources[name], new)
            except OSError as error:
                raise UsageError(f"can not write {_shown(path)}: {(error.strerror or str(error)).lower()}") from None
            self.counts[name] += count
        return bool(changes)

    def _changes(
        self, sources: Mapping[str, str], diagnostics: Iterable[Diagnostic]
    ) -> Iterator[tuple[Path, str, str, int]]:
        found = sorted((one.fix for one in diagnostics if one.fix is not None), key=lambda fix: fix.span)
        root = self.root.resolve()
        for name, group in groupby(found, key=lambda fix: fix.span.file):
            path = (root / name).resolve()
            if name not in sources or not path.is_relative_to(root):
                continue
            text = sources[name]
            self._seen.add((name, text))
            new, count = applied(text, _sound(name, text, list(group)))
            if count and (name, new) not in self._seen:
                yield path, name, new, count


def _sound(name: str, text: str, fixes: list[Fix]) -> list[Fix]:
    """The fixes that together leave the file as good YAML as it was, found by halving."""
    allowed = _syntax(name, text)
    trials = iter(range(_TRIALS))

    def among(kept: list[Fix], more: list[Fix]) -> list[Fix]:
        if next(trials, None) is None:
            return kept
        if not _syntax(name, applied(text, kept + more)[0]) - allowed:
            return kept + more
        if len(more) == 1:
            return kept
        half = len(more) // 2
        return among(among(kept, more[:half]), more[half:])

    return among([], fixes)


def _syntax(name: str, text: str) -> Counter[tuple[str, str]]:
    """What yamlio has to say about a text."""
    try:
        _, findings = parse(decode(text.encode(), name))
    except CompileError as error:
        findings = list(error.diagnostics)
    return Counter((one.code, one.message) for one in findings)


def _writable(path: Path) -> None:
    try:
        read_only = not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK)
    except OSError as error:
        raise UsageError(f"can not write {_shown(path)}: {(error.strerror or str(error)).lower()}") from None
    if read_only:
        raise UsageError(f"can not write {_shown(path)}: the file is read-only")


def _replace(path: Path, old: str, new: str) -> None:
    """Put `new` in the place of `old`, whole or not at all; the file keeps its mode and its byte-order mark."""
    from tempfile import NamedTemporaryFile  # a check that fixes nothing does without

    data = path.read_bytes()
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    if data != mark + old.encode():
        raise UsageError(f"{_shown(path)} was changed by somebody else meanwhile; run the command again")
    temporary: Path | None = None
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=".aibrix-", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            file.write(mark + new.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(path.stat().st_mode & 0o7777)
        temporary.replace(path)
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


def _shown(path: Path) -> str:
    return os.path.relpath(path).replace(os.sep, "/")
