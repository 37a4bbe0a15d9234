"""Trace files for tests, and what reading them gives."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from aibrix_compile.diagnostics import CompileError, Diagnostic
from aibrix_compile.simulate.formats import read
from aibrix_compile.simulate.trace import Request

OURS = "arrival_s,input_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
BURST_3 = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
MOONCAKE = '{"timestamp":%s,"input_length":%s,"output_length":%s,"hash_ids":%s}\n'
LOGGED = (
    '{"time":"2026-03-01T%s","request_id":"f3","tenant":"alpha","status":%s,"model":"%s","adapter":%s,'
    '"tokens_in":%s,"tokens_out":%s,"ms_total":1200}\n'
)
HEADER = '{"trace":"mine","block_tokens":64}\n'
common = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # fmt: skip


def saved(folder: Path, content: str | bytes, name: str = "trace") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def walk(path: Path, form: str = "", model: str = "") -> list[Request]:
    return list(read(path, form, model))


def faults(path: Path, form: str = "", model: str = "") -> list[Diagnostic]:
    with pytest.raises(CompileError) as caught:
        walk(path, form, model)
    assert all(one.hint and one.span.file == str(path) for one in caught.value.diagnostics)
    return list(caught.value.diagnostics)


def said(found: list[Diagnostic]) -> list[tuple[int, int, str, str]]:
    return [(one.span.line, one.span.column, one.code, one.message) for one in found]
