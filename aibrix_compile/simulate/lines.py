"""The lines of a trace file, however large and whatever is in it, and what is wrong with them.

Memory is bounded by a block and the longest line that is allowed; gzip is seen by its first bytes. Mistakes are collected, so
one run reports several; a file that can not be read on, or has too many, ends the walk.
"""

from __future__ import annotations

import gzip
import io
import json
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from aibrix_compile.diagnostics import CompileError, Diagnostic, Related, Severity, Span, UsageError

MAX_LINE = 2 * 1024 * 1024  # a prompt of a million tokens in blocks of 16 is a line of 0.6 MB
MAX_FINDINGS = 20
_BLOCK = 64 * 1024
_QUOTED = 40  # characters of a bad value that a message repeats


class Findings:
    """What is wrong with one file. Raises CompileError when there is too much of it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Diagnostic] = []

    def span(self, line: int, column: int = 1, width: int = 1) -> Span:
        return Span(self.file, line, column, line, column + max(1, width))

    def add(self, code: str, span: Span, message: str, hint: str, related: Iterable[Related] = ()) -> None:
        last = len(self.found) == MAX_FINDINGS - 1
        hint += f"; after {MAX_FINDINGS} findings the rest of the file was not read" if last else ""
        self.found.append(Diagnostic(code, Severity.ERROR, message, span, hint, related=tuple(related)))
        if last:
            raise self.error()

    def error(self) -> CompileError:
        return CompileError(self.found)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed where it is gzip. UsageError where there is no such file, or none that can be read
    more than once."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path} is no regular file; a trace is read more than once, so save it to a file first")
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            yield io.BufferedReader(gzip.GzipFile(fileobj=raw, mode="rb"), _BLOCK) if packed else raw
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except OSError as error:
        raise UsageError(f"can not read {path}: {(error.strerror or str(error)).lower()}") from None


def blocks(file: IO[bytes], findings: Findings) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines without their ends), some thousand at a time. A line that is no UTF-8 is reported
    and comes empty. CompileError where the file can not be read on: broken gzip, a line that does not end."""
    number, rest = 1, b""
    while True:
        try:
            block = file.read(_BLOCK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            why = "it ends too early" if isinstance(error, EOFError) else str(error)
            raise _unreadable(
                findings,
                number,
                f"the gzip file is broken: {why}",
                "get the file again; `gzip -t` says whether it is whole",
            ) from None
        end = block.rfind(b"\n")
        if end < 0:
            rest += block
            if len(rest) > MAX_LINE:
                raise _unreadable(
                    findings,
                    number,
                    f"the line is longer than {MAX_LINE >> 20} MiB",
                    "is this a trace? one line is one request",
                )
            if block:
                continue
            if rest:
                yield number, _decoded(rest, number, findings)
            return
        lines = _decoded(rest + block[:end], number, findings)
        rest = block[end + 1 :]
        yield number, lines
        number += len(lines)


def _unreadable(findings: Findings, line: int, message: str, hint: str) -> CompileError:
    findings.add("AC602", findings.span(line), message, hint)
    return findings.error()


def _decoded(block: bytes, number: int, findings: Findings) -> list[str]:
    try:
        text = block.decode()
    except UnicodeDecodeError:
        return [_line(line, number + index, findings) for index, line in enumerate(block.split(b"\n"))]
    if number == 1:
        text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n").removesuffix("\r").split("\n")


def _line(line: bytes, number: int, findings: Findings) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        column = len(line[: error.start].decode()) + 1
        findings.add(
            "AC602",
            findings.span(number, column),
            "the line is not UTF-8 text",
            "save the file as UTF-8, or remove the line",
        )
        return ""


def shown(value: object) -> str:
    """A value of the file, for a message."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."
    return f'"{text}"' if isinstance(value, str) else text
