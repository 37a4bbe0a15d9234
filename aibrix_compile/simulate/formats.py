"""Traces from files and to files.

| format | what it is |
|---|---|
| csv | ours: `arrival_s,input_tokens,output_tokens` and, if wanted, `adapter`, `session`; `ttft_s`, `e2e_s` are not read |
| jsonl | ours, with blocks: a first line `{"trace": name, "block_tokens": n}`, then `{"at": microseconds, "input": .., ..}` |
| azure | Azure's LLM inference traces of 2023 and 2024 |
| burstgpt | BurstGPT, with or without sessions |
| mooncake | Mooncake's JSONL, blocks of 512 tokens |
| gateway | the gateway's JSON access log |

The format is recognised by the header or the first record. Times of csv, jsonl and mooncake are kept; the others' clocks begin
elsewhere, so there the first request comes at 0. Rows that are a little out of order are put in order: 1 s, and 10 minutes in
the access log, which is written as requests end.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from itertools import chain
from pathlib import Path
from typing import IO

from aibrix_compile.diagnostics import Related, UsageError
from aibrix_compile.simulate import records, tables
from aibrix_compile.simulate.lines import Findings, blocks, opened, shown
from aibrix_compile.simulate.records import RECORDS, Records, Wrong
from aibrix_compile.simulate.tables import TABLES, Row, Table
from aibrix_compile.simulate.trace import SECOND, Request, Trace

FORMATS = (*TABLES, *RECORDS)
HOLD_S = 1
LOG_HOLD_S = 600  # twice the default of routing.timeout
MOST_HELD = 200_000  # rows that wait for earlier ones, 35 MB
_END: Row = (1 << 62, 0, 0, 0, (), "", -1)
_UNSAFE = frozenset(',"\r\n')


def read(path: Path, form: str = "", model: str = "") -> Trace:
    """The trace in a file; only its beginning is read now. `form`: one of FORMATS; empty: recognised. `model` keeps the
    requests to one model, in a format that knows models. CompileError for a file of no known format or without a line,
    and from walking the trace. UsageError: no such file, format or model column."""
    if form and form not in FORMATS:
        raise UsageError(f"there is no trace format {form}; formats: {', '.join(FORMATS)}")
    findings = Findings(str(path))
    number, start = _start(path, findings)
    try:
        name = _recognised(start, form)
        title, unit = records.header(start) if name == "jsonl" else (path.name, 0)
    except Wrong as wrong:
        findings.add(wrong.code, findings.span(number, 1, len(start)), wrong.message, wrong.hint)
        raise findings.error() from None
    if name in RECORDS:
        unit = unit or RECORDS[name].block_tokens
    if model and name not in ("burstgpt", "gateway"):
        raise UsageError(f"{path} is a trace of format {name}, which does not know models")
    skipped: Counter[str] = Counter()
    return Trace(title, lambda: _requests(path, name, unit, model, skipped), unit, None, skipped)


def _start(path: Path, findings: Findings) -> tuple[int, str]:
    """The first line that says something, and its number; Envoy's own messages before an access log do not."""
    with opened(path) as file:
        for number, block in blocks(file, findings):
            for index, line in enumerate(block):
                if line.strip() and not line.startswith("["):
                    return number + index, line
            if findings.found:
                raise findings.error()
    findings.add("AC606", findings.span(1), "the file is empty", "is it the right file?")
    raise findings.error()


def _recognised(line: str, wanted: str) -> str:
    """The format of a file that begins so. Wrong where it is none, or not the wanted one."""
    kinds: Mapping[str, Table | Records] = TABLES
    what, found = "columns", []
    if line.lstrip().startswith("{"):
        what, found, kinds = "keys", list(records.loads(line)), RECORDS
    else:
        found = tables.columns(line)
    keys = frozenset(found)
    for name, one in kinds.items():
        whole = one.known is None or keys <= one.known | one.needed
        if wanted in ("", name) and one.needed <= keys and whole and len(keys) == len(found):
            return name
    near = wanted if wanted in kinds else max(kinds, key=lambda name: len(keys & kinds[name].needed))
    one = kinds[near]
    faults = [f"{key} is missing" for key in sorted(one.needed - keys)]
    faults += [f"{shown(key)} is unknown" for key in found if one.known is not None and key not in one.known]
    faults += [f"{shown(key)} is there twice" for key in sorted(keys) if found.count(key) > 1]
    hint = f"the nearest is {near}: {', '.join(faults[:6])}" if near != wanted else f"{', '.join(faults[:6])}"
    if wanted and wanted not in kinds:
        hint = f"a {wanted} trace has no {what}"
    raise Wrong(
        "AC601",
        "",
        f"the {what} {', '.join(map(shown, found[:12]))} are those of no {wanted or 'known'} trace",
        f"{hint}; formats: {', '.join(FORMATS)}",
    )


def _requests(path: Path, form: str, unit: int, model: str, skipped: Counter[str]) -> Iterator[Request]:
    skipped.clear()
    findings = Findings(str(path))
    with opened(path) as file:
        lines = blocks(file, findings)
        if form in TABLES:
            table = TABLES[form]
            rows = tables.rows(table, lines, model, findings, skipped)
            yield from _in_order(rows, HOLD_S, table.absolute, findings, skipped)
        else:
            kind = RECORDS[form]
            rows = records.rows(kind, unit, lines, model, findings, skipped)
            yield from _in_order(rows, LOG_HOLD_S if kind.log else HOLD_S, kind.absolute, findings, skipped)


def _in_order(
    rows: Iterator[Row], hold_s: int, absolute: bool, findings: Findings, skipped: Counter[str]
) -> Iterator[Request]:
    """Requests by time and line, from rows up to `hold_s` out of order. Nothing comes after the first finding, and at the
    end it raises CompileError if there was one."""
    hold, limit, newest, newest_line = hold_s * SECOND, -1, -1, 0
    base = None if absolute else 0
    held: list[Row] = []
    found, count, late = findings.found, 0, False
    for row in chain(rows, (_END,)):
        at = row[0]
        if at < limit:
            if not late:
                late = True  # once: one line with a wrong time makes all that follow late
                _late(row, hold_s, newest, newest_line, findings)
            continue
        heappush(held, row)
        if at > newest:
            newest, newest_line, limit = at, row[1], max(limit, at - hold)
        while held and (held[0][0] <= limit or len(held) > MOST_HELD):
            at, _, tokens, output, ids, adapter, session = heappop(held)
            limit = max(limit, at)
            if not found:
                base = at if base is None else base
                count += 1
                yield Request(at - base, tokens, output, ids, adapter, session)
    if not count and not found:
        left = "; ".join(f"{rows} x {reason}" for reason, rows in sorted(skipped.items()))
        message = "there is no request in the file" + (f", only rows that are left out: {left}" if left else "")
        findings.add("AC606", findings.span(1), message, "is it the right file, and the right model?")
    if found:
        raise findings.error()


def _late(row: Row, hold_s: int, newest: int, newest_line: int, findings: Findings) -> None:
    findings.add(
        "AC605",
        findings.span(row[1]),
        f"the request comes {(newest - row[0]) / SECOND:.6f} s before that of line {newest_line}",
        f"up to {hold_s} s is put in order; sort the file by time, or correct the time of one of the two lines",
        [Related(findings.span(newest_line), "this one is later")],
    )


def write(trace: Trace, path: Path) -> int:
    """Save a trace and return the number of its requests; reading it gives the same requests. The ending chooses the
    form: .jsonl keeps everything, .csv has no blocks; .gz after it compresses. UsageError for another ending, for what
    CSV can not hold, and where the file can not be written; a file that was there stays until the new one is whole."""
    endings = path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]
    kind = endings[0] if endings else ""
    if kind not in (".csv", ".jsonl"):
        raise UsageError(f"{path} says no form; name it .jsonl or .csv, with .gz behind it to compress")
    temporary = path.with_name(f".{path.name}.aibrix-tmp")
    count = -1  # the first line is a header
    try:
        with temporary.open("wb") as raw, _packed(raw, path.suffix == ".gz") as file:
            for line in csv_lines(trace) if kind == ".csv" else json_lines(trace):
                file.write(line.encode())
                count += 1
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"can not write {path}: {(error.strerror or str(error)).lower()}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _packed(raw: IO[bytes], pack: bool) -> IO[bytes]:
    """Compressed without time and name, so that equal traces are equal files."""
    return gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) if pack else raw  # type: ignore[return-value]


def csv_lines(trace: Trace) -> Iterator[str]:
    if trace.block_tokens:
        raise UsageError("CSV has no place for blocks; save the trace as .jsonl")
    yield "arrival_s,input_tokens,output_tokens,adapter,session\n"
    for at, tokens, output, _, adapter, session in trace:
        if not _UNSAFE.isdisjoint(adapter):
            raise UsageError(f"CSV has no place for the adapter's name {shown(adapter)}; save the trace as .jsonl")
        yield f"{at // SECOND}.{at % SECOND:06d},{tokens},{output},{adapter},{session if session >= 0 else ''}\n"


def json_lines(trace: Trace) -> Iterator[str]:
    dumped = json.JSONEncoder(separators=(",", ":")).encode
    yield dumped({"trace": trace.name, "block_tokens": trace.block_tokens}) + "\n"
    for at, tokens, output, ids, adapter, session in trace:
        more = f',"blocks":{dumped(ids)}' if ids else ""
        more += f',"adapter":{dumped(adapter)}' if adapter else ""
        more += f',"session":{session}' if session >= 0 else ""
        yield f'{{"at":{at},"input":{tokens},"output":{output}{more}}}\n'
