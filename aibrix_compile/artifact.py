"""One file of the output: the value that crosses from backends to closure, explain and writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aibrix_compile.diagnostics import Path

Object = dict[str, Any]
"""A Kubernetes object as JSON data: dict, list, str, int, float, bool; never None."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a part of an object came from: `path` in the spec document of `service` ("" = the Project)."""

    service: str
    path: Path


@dataclass(frozen=True, slots=True)
class External:
    """An object that is referred to but not emitted, because somebody else owns it: a Secret, a claim, a namespace."""

    kind: str
    namespace: str
    name: str
    source: Source


@dataclass(frozen=True, slots=True)
class Artifact:
    """`path` is relative to the output folder, with `/`. `sources` maps object paths to spec paths; longest prefix wins."""

    path: str
    object: Object
    sources: Mapping[Path, Source] = field(default_factory=dict)

    def source(self, path: Path) -> Source | None:
        """The source of the object's field at `path`: that of its longest tagged prefix."""
        for end in range(len(path), -1, -1):
            if (found := self.sources.get(path[:end])) is not None:
                return found
        return None
