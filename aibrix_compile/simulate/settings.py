"""Settings from a command line: `routing.strategy=cost`, several values of one, a sweep over numbers - as text of an overlay.

Why an overlay: a setting then goes through the whole language. Units, checks and defaults are the spec's own, and a mistake in
it is a coded finding with its place in the setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation

from aibrix_compile.diagnostics import UsageError

MOST = 64
"""Variants of one study."""
_PATH = re.compile(r"[A-Za-z][\w-]*(\.[\w-]+)*\Z")
_SWEEP = re.compile(r"([\d.]+)([^\d:]*):([\d.]+)([^\d:]*):([\d.]+)([^\d:]*)\Z")


def assignment(text: str) -> tuple[str, str]:
    """`PATH=VALUE`. UsageError."""
    path, sign, value = text.partition("=")
    if not sign or not _PATH.match(path) or not value:
        raise UsageError(f'"{text}" is no setting; write PATH=VALUE, as in routing.strategy=cost')
    return path.removeprefix("spec."), value


def values(text: str) -> tuple[str, list[str]]:
    """`PATH=A,B,C`; commas within brackets are part of a value."""
    path, listed = assignment(text)
    found, depth, word = [], 0, ""
    for letter in listed:
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            found.append(word)
            word = ""
        else:
            word += letter
    found = [one.strip() for one in (*found, word)]
    if "" in found or len(found) < 2:
        raise UsageError(f'"{text}" compares nothing; write at least two values, as in {path}=A,B')
    return path, found


def steps(text: str, current: str = "") -> tuple[str, list[str]]:
    """`PATH=LOW:HIGH:STEP[UNIT]`: numbers from LOW to HIGH, HIGH included where a step meets it. Without a unit they have
    that of `current`, the value in the spec; shares are percent there. UsageError."""
    path, sweep = assignment(text)
    found = _SWEEP.match(sweep)
    units = {one.strip() for one in found.group(2, 4, 6)} - {""} if found else set()
    try:
        low, high, step = (Decimal(one) for one in found.group(1, 3, 5)) if found else (Decimal(0),) * 3
    except InvalidOperation:
        low = high = step = Decimal(0)
    if step <= 0 or high < low or len(units) > 1:
        raise UsageError(f'"{text}" is no sweep; write {path}=LOW:HIGH:STEP, as in 0.5:0.9:0.1 or 4:16:4 per replica')
    if (high - low) / step >= MOST:
        raise UsageError(f'"{text}" has more than {MOST} steps')
    unit = units.pop() if units else re.sub(r"^[\d.]+\s*", "", current)
    shares = unit == "%" and high <= 1 and "%" not in sweep
    count = int((high - low) / step)
    numbers = [low + step * index for index in range(count + 1)]
    if shares:
        numbers = [number * 100 for number in numbers]
    gap = " " if " " in unit or unit.isupper() else ""
    return path, [f"{number.normalize():f}{gap}{unit}" for number in numbers]


def overlay(service: str, settings: list[tuple[str, str]]) -> str:
    """The text of an overlay, a document for each setting; `pools.NAME.field` goes to the pool of that name."""
    return "---\n".join(_document(service, path.split("."), value) for path, value in settings)


def _document(service: str, path: list[str], value: str) -> str:
    lines, indent = (
        ["apiVersion: serving.aibrix.ai/v1alpha1", "kind: ModelService", f"metadata: {{name: {service}}}", "spec:"],
        2,
    )
    for index, step in enumerate(path):
        if index and path[index - 1] == "pools" and index == 1:
            lines.append(f"{' ' * indent}- name: {step}")
        else:
            lines.append(f"{' ' * indent}{step}:")
        indent += 2
    return "\n".join([*lines[:-1], f"{lines[-1]} {value}"]) + "\n"


def combined(comparisons: list[tuple[str, list[str]]]) -> Iterator[list[tuple[str, str]]]:
    """Every combination of values, the last path varying fastest."""
    if not comparisons:
        yield []
        return
    path, found = comparisons[0]
    for value in found:
        for rest in combined(comparisons[1:]):
            yield [(path, value), *rest]
