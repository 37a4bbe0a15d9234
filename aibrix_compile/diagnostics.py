"""What the compiler has to say, as data. Formatting lives in report.py; nothing here knows about YAML or files.

A `Problem` is said by the pure middle (spec, passes) in terms of a spec path; the driver turns it into a
`Diagnostic` in terms of file, line and column. `CompileError` carries diagnostics out of a step that can not go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

Path = tuple[str | int, ...]
"""Where a value stands in a document: keys and zero-based list indices, `("spec", "pools", 0, "replicas")`."""


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A stretch of a source file. Lines and columns are 1-based and count code points; the end is exclusive."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True, slots=True)
class Related:
    span: Span
    message: str


@dataclass(frozen=True, slots=True)
class Fix:
    """A machine-applicable edit: the text of `span` becomes `text`, nothing else changes."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    code: str
    severity: Severity
    message: str
    span: Span
    hint: str = ""
    fix: Fix | None = None
    related: tuple[Related, ...] = ()
    environments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding in terms of spec paths. `at_key` points at the key instead of the value (unknown keys)."""

    code: str
    path: Path
    message: str
    hint: str = ""
    related: tuple[tuple[Path, str], ...] = ()
    fix: str | None = None
    severity: Severity = Severity.ERROR
    at_key: bool = False


class CompileError(Exception):
    """A step can not go on; `diagnostics` say why. Never raised for what can be collected."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in self.diagnostics))

    def __reduce__(self) -> tuple[type[CompileError], tuple[tuple[Diagnostic, ...]]]:
        return CompileError, (self.diagnostics,)  # between processes as what it was made of, not as its text


class UsageError(Exception):
    """The call or the machine is at fault, not the spec: exit code 2, one line on stderr."""
