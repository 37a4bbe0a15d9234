"""Traces in CSV: which columns mean what, and rows that are read fast when they are as they should be.

A row is first read the fast way; whatever that does not take is read again, carefully, and only then is it judged. A row with
0 tokens is a request that failed where it was recorded (2 of AIBrix's, 7 % of BurstGPT's): it is left out and counted.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b

from aibrix_compile.simulate.lines import Findings, shown
from aibrix_compile.simulate.trace import MOST_SECONDS, MOST_TOKENS, SECOND

Row = tuple[int, int, int, int, tuple[int, ...], str, int]
"""(microseconds on the file's clock, line, and the rest of a Request): comparable, so that rows can be put in order."""
Lines = Iterator[tuple[int, list[str]]]
"""(number of the first, lines)."""

FAILED = "a prompt or an answer of 0 tokens: it failed where it was recorded"
OTHER_MODEL = "a request to another model"
TOKENS = f"whole numbers of tokens up to {MOST_TOKENS:,}"
INSTANT = "times from 1970 on, like 2023-11-16 18:15:46.680590, in UTC or with an offset"
_SECONDS = f"seconds since the trace began, 0 to {MOST_SECONDS:,} (ten years)"
_SESSION = "whole numbers below 2^63, or nothing"
_MINUTE = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):", re.ASCII)
_REST = re.compile(r"([0-5]\d(?:\.\d+)?)(?:Z|([+-])(\d\d):?(\d\d))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV format by the names of its columns; empty: it has none such."""

    at: str
    input: str
    output: str
    clock: Callable[[], Callable[[str], int]]
    """Makes a reader of times, in microseconds; it may remember the minute before. ValueError for what is no time."""
    times: str
    """What times look like, for messages."""
    adapter: str = ""
    session: str = ""
    model: str = ""
    optional: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()
    """Columns that are not read, all of them optional."""
    absolute: bool = False
    """The clock does not begin with the trace, so the first request defines 0."""
    named_sessions: bool = False
    """Sessions have names, not numbers."""

    @property
    def needed(self) -> frozenset[str]:
        return self.known - self.optional - self.ignored

    @property
    def known(self) -> frozenset[str]:
        named = {self.at, self.input, self.output, self.adapter, self.session, self.model} - {""}
        return self.ignored | named


def seconds() -> Callable[[str], int]:
    def read(text: str) -> int:
        value = float(text)
        if not 0 <= value <= MOST_SECONDS or "_" in text:
            raise ValueError
        return round(value * 1e6)  # exact: the error of both roundings is below 0.1 microseconds in ten years

    return read


def instants() -> Callable[[str], int]:
    """Microseconds since the year 1 of a date and time; without an offset it is UTC, as in Azure's files of 2023."""
    minute, base = "", 0

    def read(text: str) -> int:
        nonlocal minute, base
        if text[:17] != minute:
            found = _MINUTE.fullmatch(text[:17])
            if found is None:
                raise ValueError
            year, month, day, hour, minutes = map(int, found.groups())
            if year < 1970 or hour > 23 or minutes > 59:
                raise ValueError
            base = ((date(year, month, day).toordinal() * 24 + hour) * 60 + minutes) * 60 * SECOND
            minute = text[:17]
        rest = _REST.fullmatch(text, 17)
        if rest is None:
            raise ValueError
        second, sign, hours, minutes_off = rest.groups()
        at = base + round(float(second) * 1e6)
        if sign is None:
            return at
        ahead = (int(hours) * 60 + int(minutes_off)) * 60 * SECOND
        return at - ahead if sign == "+" else at + ahead

    return read


TABLES = {
    "csv": Table(
        *("arrival_s", "input_tokens", "output_tokens", seconds, _SECONDS),
        adapter="adapter",
        session="session",
        optional=frozenset(("adapter", "session")),
        ignored=frozenset(("ttft_s", "e2e_s")),  # what was measured; a comparison reads it, a replay does not
    ),
    "azure": Table("TIMESTAMP", "ContextTokens", "GeneratedTokens", instants, INSTANT, absolute=True),
    "burstgpt": Table(  # v2 puts Session ID and Elapsed time between the columns of v1
        *("Timestamp", "Request tokens", "Response tokens", seconds, _SECONDS),
        session="Session ID",
        model="Model",
        optional=frozenset(("Session ID",)),
        ignored=frozenset(("Elapsed time", "Total tokens", "Log Type")),
        absolute=True,  # the second file begins where the first ends, after 61 days
        named_sessions=True,
    ),
}


def columns(header: str) -> list[str]:
    """The names in a header line."""
    return [name.strip() for name in _cells(header)]


def rows(table: Table, lines: Lines, model: str, findings: Findings, skipped: Counter[str]) -> Iterator[Row]:
    """The rows of a file in its own order. `model`: only requests to it; empty: all."""
    clock = table.clock()
    judge: _Judge | None = None
    fast, width, time_at, input_at, output_at = False, 0, 0, 0, 0
    for number, block in lines:
        number -= 1
        for line in block:
            number += 1
            if fast:
                cells = line.split(",", width)
                if len(cells) == width:
                    prompt, answer = cells[input_at], cells[output_at]
                    if prompt.isdigit() and answer.isdigit():
                        try:
                            at, tokens, output = clock(cells[time_at]), int(prompt), int(answer)
                        except ValueError:
                            pass
                        else:
                            if 0 < tokens <= MOST_TOKENS and 0 < output <= MOST_TOKENS:
                                yield at, number, tokens, output, (), "", -1
                                continue
            if not line or line.isspace():
                continue
            if judge is None:
                judge = _Judge(table, columns(line), clock, model, findings, skipped)
                width, time_at, input_at, output_at = len(judge.names), judge.at, judge.input, judge.output
                fast = judge.adapter is None and judge.session is None and not model
            elif (row := judge.row(line, number)) is not None:
                yield row


class _Judge:
    """Reads the rows of one file carefully, and says what is wrong with each of their values."""

    def __init__(
        self,
        table: Table,
        names: list[str],
        clock: Callable[[str], int],
        model: str,
        findings: Findings,
        skipped: Counter[str],
    ) -> None:
        self.names = names
        self.at, self.input, self.output = map(names.index, (table.at, table.input, table.output))
        optional = (table.adapter, table.session, table.model)
        self.adapter, self.session, self.model = (names.index(one) if one in names else None for one in optional)
        self._table, self._clock, self._wanted = table, clock, model
        self._findings, self._skipped = findings, skipped

    def row(self, line: str, number: int) -> Row | None:
        """None: there is a finding, or the row is counted as skipped."""
        names, quoted, wrong = self.names, '"' in line, False
        cells = _cells(line) if quoted else line.split(",", len(names))
        if len(cells) != len(names):
            self._misshapen(len(cells), line, number)
            return None

        def refuse(index: int, expected: str) -> None:
            nonlocal wrong
            wrong = True
            column = 1 if quoted else 1 + sum(len(cell) + 1 for cell in cells[:index])
            span = self._findings.span(number, column, len(cells[index]))
            message = f"{names[index]} is {shown(cells[index])}"
            self._findings.add("AC604", span, message, f"{expected}; correct the value or remove the line")

        at, session = 0, -1
        try:
            at = self._clock(cells[self.at].strip())
        except ValueError:
            refuse(self.at, self._table.times)
        tokens, output = (_whole(cells[index], MOST_TOKENS) for index in (self.input, self.output))
        if tokens is None:
            refuse(self.input, TOKENS)
        if output is None:
            refuse(self.output, TOKENS)
        if self.session is not None and (text := cells[self.session].strip()):
            found = _hashed(text) if self._table.named_sessions else _whole(text, 2**63 - 1)
            if found is None:
                refuse(self.session, _SESSION)
            else:
                session = found
        if wrong:
            return None
        if self._wanted and self.model is not None and cells[self.model] != self._wanted:
            self._skipped[OTHER_MODEL] += 1
            return None
        if not tokens or not output:
            self._skipped[FAILED] += 1
            return None
        return at, number, tokens, output, (), "" if self.adapter is None else cells[self.adapter], session

    def _misshapen(self, count: int, line: str, number: int) -> None:
        known = len(self.names)
        found = f"more than {known}" if count > known else str(count)
        span, hint = self._findings.span(number, 1, len(line)), f"the columns are {', '.join(self.names)}"
        self._findings.add("AC603", span, f"the line has {found} values, the header {known}", hint)


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # a quoted value of more than 128 KiB, a lone carriage return
        return line.split(",")


def _whole(text: str, most: int) -> int | None:
    text = text.strip()
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else most + 1
    return value if value <= most else None


def _hashed(name: str) -> int:
    """A conversation's number from its name, without a table of all names."""
    return int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), "big")
