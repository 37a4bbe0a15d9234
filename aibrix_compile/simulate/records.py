"""Traces of one JSON object a line: Mooncake's, the gateway's access log, and the form that keeps everything a Trace has.

Of the access log (format: the gateway's `json_format`) the fields time, model, adapter, status, tokens_in and tokens_out are
read and any others ignored. It is written as requests end, so its lines are far out of order.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from aibrix_compile.diagnostics import Related, Span
from aibrix_compile.simulate.lines import Findings, shown
from aibrix_compile.simulate.tables import FAILED, INSTANT, OTHER_MODEL, TOKENS, Lines, Row, instants
from aibrix_compile.simulate.trace import MOST_SECONDS, MOST_TOKENS, SECOND

REFUSED = "not answered"
UNCOUNTED = "answered, but without a count of tokens: not a completion, or its client did not ask for one"
ENVOYS_OWN = "no line of the access log"
MOST_BLOCK = 1_000_000
HEADER = frozenset(("trace", "block_tokens"))
_REQUEST = frozenset(("at", "input", "output"))
_LENGTHS = frozenset(("timestamp", "input_length", "output_length"))
_LOGGED = frozenset(("time", "tokens_in", "tokens_out"))

Record = Mapping[str, Any]
Values = tuple[int, int, int, tuple[int, ...], str, int]
"""A Request on the file's own clock."""


class Wrong(Exception):
    """A record that is no request: the key at fault ("" for none), what is wrong, what would be right."""

    def __init__(self, code: str, key: str, message: str, hint: str) -> None:
        super().__init__(code, key, message, hint)
        self.code, self.key, self.message, self.hint = code, key, message, hint


@dataclass(frozen=True, slots=True)
class Records:
    """A JSON format. `reader(block_tokens)` makes a function from a record to its values, or to the reason to skip it."""

    needed: frozenset[str]
    """Keys by which the first record is known."""
    request: frozenset[str]
    """Keys that the record of a request must have."""
    known: frozenset[str] | None
    """All keys that it may have; None: others are ignored."""
    reader: Callable[[int], Callable[[Record], Values | str]]
    absolute: bool = False
    block_tokens: int = 0
    header: bool = False
    """The first record speaks of the trace, not of a request."""
    log: bool = False
    """Requests to several models stand in it, and lines that Envoy writes beside its access log."""


def _value(record: Record, key: str, expected: str) -> Wrong:
    return Wrong(
        "AC604", key, f"{key} is {shown(record.get(key))}", f"{expected}; correct the value or remove the line"
    )


def _count(record: Record, key: str) -> int:
    value = record[key]
    if type(value) is not int or not 0 <= value <= MOST_TOKENS:
        raise _value(record, key, TOKENS)
    return value


def _blocks(record: Record, key: str, tokens: int, unit: int) -> tuple[int, ...]:
    ids = record.get(key)
    if not ids and (ids is None or ids == []):
        return ()
    if type(ids) is not list or set(map(type, ids)) != {int}:
        raise Wrong("AC604", key, f"{key} is no list of whole numbers", "give the id of each block of the prompt")
    if not unit:
        raise Wrong("AC608", key, "blocks in a trace that gives them no size", "set block_tokens in the first line")
    if len(ids) != (due := -(-tokens // unit)):
        message = f"a prompt of {tokens} tokens has {due} blocks of {unit}, not {len(ids)}"
        raise Wrong("AC608", key, message, "give all of them, the last one partial, or none")
    return tuple(ids)


def _mooncake(unit: int) -> Callable[[Record], Values | str]:
    def read(record: Record) -> Values | str:
        at, tokens, output = record["timestamp"], _count(record, "input_length"), _count(record, "output_length")
        if type(at) not in (int, float) or not 0 <= at <= MOST_SECONDS * 1000:
            raise _value(record, "timestamp", "milliseconds since the trace began, 0 or more")
        if not tokens or not output:
            return FAILED
        return round(at * 1000), tokens, output, _blocks(record, "hash_ids", tokens, unit), "", -1

    return read


def _own(unit: int) -> Callable[[Record], Values | str]:
    def read(record: Record) -> Values | str:
        at, tokens, output = record["at"], _count(record, "input"), _count(record, "output")
        adapter, session = record.get("adapter", ""), record.get("session", -1)
        if type(at) is not int or not 0 <= at <= MOST_SECONDS * SECOND:
            raise _value(record, "at", "whole microseconds since the trace began, 0 or more")
        if type(adapter) is not str:
            raise _value(record, "adapter", "the name of an adapter")
        if type(session) is not int or not -1 <= session < 2**63:
            raise _value(record, "session", "a whole number below 2^63")
        if not tokens or not output:
            return FAILED
        return at, tokens, output, _blocks(record, "blocks", tokens, unit), adapter, session

    return read


def _gateway(unit: int) -> Callable[[Record], Values | str]:
    instant = instants()

    def count(record: Record, key: str) -> int:
        value = record[key]  # a number where Envoy knows its type, else text
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:20])
        if isinstance(value, float) and isfinite(value) and value == int(value):
            value = int(value)
        if type(value) is not int or not 0 <= value <= MOST_TOKENS:
            raise _value(record, key, TOKENS)
        return value

    def read(record: Record) -> Values | str:
        time, adapter = record["time"], record.get("adapter")
        if record["tokens_in"] in (None, "-", "") or record["tokens_out"] in (None, "-", ""):
            return UNCOUNTED if str(record.get("status")).startswith("2") else REFUSED
        tokens, output = count(record, "tokens_in"), count(record, "tokens_out")
        try:
            at = instant(time)
        except (ValueError, TypeError):
            raise _value(record, "time", INSTANT) from None
        if not tokens or not output:
            return FAILED
        return at, tokens, output, (), adapter if isinstance(adapter, str) and adapter != "-" else "", -1

    return read


RECORDS = {
    "mooncake": Records(_LENGTHS, _LENGTHS, _LENGTHS | {"hash_ids"}, _mooncake, block_tokens=512),
    "gateway": Records(_LOGGED, _LOGGED, None, _gateway, absolute=True, log=True),
    "jsonl": Records(HEADER, _REQUEST, _REQUEST | {"blocks", "adapter", "session"}, _own, header=True),
}


def loads(line: str) -> Record:
    """The object of a line. Wrong for anything else."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise Wrong(
            "AC603", "", f"no JSON: {error.msg.lower()} at column {error.colno}", "one JSON object a line"
        ) from None
    except (ValueError, RecursionError):
        raise Wrong("AC603", "", "no JSON that can be read", "one JSON object a line") from None
    if not isinstance(record, dict):
        raise Wrong("AC603", "", f"{shown(line)} is no JSON object", "one JSON object a line")
    return record


def header(line: str) -> tuple[str, int]:
    """Name and size of blocks, from the first line of our own format."""
    record = loads(line)
    name, unit = record["trace"], record["block_tokens"]
    if type(name) is not str:
        raise _value(record, "trace", "the name of the trace")
    if type(unit) is not int or not 0 <= unit <= MOST_BLOCK:
        raise _value(record, "block_tokens", f"tokens of a block, 0 to {MOST_BLOCK:,}")
    return name, unit


def rows(
    records: Records, unit: int, lines: Lines, model: str, findings: Findings, skipped: Counter[str]
) -> Iterator[Row]:
    """The rows of a file in its own order; `unit`: tokens of a block. `model`: only requests to it; empty: all, which must
    be to one model."""
    read, known, log = records.reader(unit), records.known, records.log
    needed = records.request
    begun = not records.header
    first: tuple[str, int] | None = None
    mixed = False
    for number, block in lines:
        number -= 1
        for line in block:
            number += 1
            if not line or line.isspace():
                continue
            if not begun:
                begun = True
                continue
            if log and line[0] == "[":
                skipped[ENVOYS_OWN] += 1
                continue
            try:
                record = loads(line)
                keys = record.keys()
                if not needed <= keys or (known is not None and not keys <= known):
                    raise _keys(frozenset(keys), needed, known)
                values = read(record)
                if log and not isinstance(values, str):
                    asked = str(record.get("model") or "")
                    if model and asked != model:
                        values = OTHER_MODEL
                    elif first is None:
                        first = asked, number
                    elif asked != first[0] and not mixed:
                        mixed = True
                        _mixed(line, number, asked, first, findings)
            except Wrong as wrong:
                findings.add(wrong.code, _place(line, number, wrong.key, findings), wrong.message, wrong.hint)
            else:
                if isinstance(values, str):
                    skipped[values] += 1
                else:
                    yield values[0], number, *values[1:]


def _keys(keys: frozenset[str], needed: frozenset[str], known: frozenset[str] | None) -> Wrong:
    missing = sorted(needed - keys)
    unknown = sorted(keys - known) if known is not None else []
    said = [f"{', '.join(missing)} missing"] if missing else []
    said += [f"{', '.join(map(shown, unknown))} unknown"] if unknown else []
    return Wrong(
        "AC603", unknown[0] if unknown else "", f"the record has other keys: {'; '.join(said)}", _has(needed, known)
    )


def _has(needed: frozenset[str], known: frozenset[str] | None) -> str:
    more = sorted((known or frozenset()) - needed)
    return f"a record has {', '.join(sorted(needed))}" + (f" and may have {', '.join(more)}" if more else "")


def _mixed(line: str, number: int, asked: str, first: tuple[str, int], findings: Findings) -> None:
    there = Related(findings.span(first[1]), f"a request to {shown(first[0])}")
    findings.add(
        "AC607",
        _place(line, number, "model", findings),
        f"the log has requests to {shown(first[0])} and to {shown(asked)}",
        "a trace is of one service: choose a model",
        [there],
    )


def _place(line: str, number: int, key: str, findings: Findings) -> Span:
    """The value of a key, roughly; the beginning of the line where it is not found."""
    found = re.search(rf'"{re.escape(key)}"\s*:\s*("[^"]*"|\[|[^,}}\s]*)', line) if key else None
    return findings.span(number, found.start(1) + 1, len(found[1])) if found else findings.span(number)
