"""Engine profiles as files: what `simulate calibrate` writes and `--profile` reads, a JSON object by pool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from math import isfinite
from pathlib import Path
from typing import Any

from aibrix_compile.diagnostics import CompileError, Diagnostic, Severity, Span, UsageError
from aibrix_compile.policy.profile import Profile

_FIELDS = {one.name: one.type for one in fields(Profile)}
_NEEDED = ("weights_ms", "token_ms", "context_ms", "attention_ms")
_TEXTS = ("name", "source", "error")


def as_json(profiles: Mapping[str, Profile]) -> dict[str, Any]:
    return {pool: asdict(one) for pool, one in sorted(profiles.items())}


def read(path: Path) -> dict[str, Profile]:
    """By pool. CompileError with the place of what is wrong; UsageError if there is no such file."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"can not read {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise CompileError([_found(path, "", "", "the file is not UTF-8 text")]) from None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        span = Span(str(path), line, column, line, column + 1)
        raise CompileError(
            [Diagnostic("AC613", Severity.ERROR, f"the file is not valid JSON: {error}", span, "write it anew")]
        ) from None
    if not isinstance(data, dict) or not data:
        raise CompileError([_found(path, text, "", "a profile file is an object of profiles by pool")])
    problems: list[Diagnostic] = []
    found = {}
    for pool, entry in data.items():
        wrong = list(_wrong(entry))
        problems += [_found(path, text, name or pool, f"pool {pool}: {message}") for name, message in wrong]
        if not wrong:
            texts = {"name": f"{pool} of {path.name}", "source": str(path.name), "error": "not stated"}
            found[pool] = Profile(**{**texts, "kv_tokens": 1, **entry})
    if problems:
        raise CompileError(problems)
    return found


def _wrong(entry: Any) -> list[tuple[str, str]]:
    if not isinstance(entry, dict):
        return [("", "a profile is an object")]
    found = [(name, f"there is no field {name}") for name in entry if name not in _FIELDS]
    found += [("", f"{name} is missing") for name in _NEEDED if name not in entry]
    for name, value in entry.items():
        if name in _TEXTS:
            if not isinstance(value, str):
                found.append((name, f"{name} is a text"))
        elif name in _FIELDS:
            number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
            if not number or value < 0 or value > 1e12:
                found.append((name, f"{name} is a number, 0 or above"))
    if not found and not any(entry[name] for name in _NEEDED[:2]):
        found.append(("weights_ms", "an engine whose steps take no time"))
    return found


def _found(path: Path, text: str, word: str, message: str) -> Diagnostic:
    """At the first place of a key in the file."""
    at = text.find(json.dumps(word)) if word else -1
    line = text.count("\n", 0, at) + 1 if at >= 0 else 1
    column = at - text.rfind("\n", 0, at) if at >= 0 else 1
    span = Span(str(path), line, column, line, column + max(1, len(word) + 2 if at >= 0 else 1))
    return Diagnostic("AC613", Severity.ERROR, message, span, "see `simulate calibrate`, which writes such a file")
