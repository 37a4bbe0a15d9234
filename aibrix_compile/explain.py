"""Why a value is what it is: from a spec path to the line that set it or the reason it was decided, and from a field of an
emitted object back to the spec. Reads the compilation; nothing re-reads rendered YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from aibrix_compile.artifact import Artifact
from aibrix_compile.compiler import Compilation
from aibrix_compile.diagnostics import Path, UsageError
from aibrix_compile.emit import yaml_text
from aibrix_compile.passes.draft import Draft
from aibrix_compile.spec.decode import dotted, field_at, model_at
from aibrix_compile.spec.modelservice import ModelService
from aibrix_compile.yamlio import Document, Map, Seq, locate, value_at

_STEP = re.compile(r"""\.?([A-Za-z0-9_$/-]+)|\[(\d+)\]|\[(?:"([^"]*)"|'([^']*)')\]""")


def parse_path(text: str) -> Path:
    """`spec.pools[0].replicas` as a path; keys with dots stand in brackets, metadata.labels["a.b/c"]."""
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            raise UsageError(f'"{text}" is no path; write it like pools[0].replicas or metadata.labels["a.b/c"]')
        key, index = next((g for g in (match[1], match[3], match[4]) if g is not None), ""), match[2]
        steps.append(int(index) if index is not None else int(key) if key.isdecimal() else key)
        position = match.end()
    return tuple(steps)


def service_path(text: str) -> Path:
    """A path in a ModelService; `spec.` may be left out."""
    path = parse_path(text)
    return path if path[:1] in (("spec",), ("metadata",), ("apiVersion",), ("kind",)) else ("spec", *path)


def value(result: Compilation, file: str, path: Path) -> Iterator[str]:
    """Lines on what stands at `path` of the services of `file`, in each environment; once where environments agree."""
    answers: dict[tuple[str, ...], list[str]] = {}
    for environment, drafts in result.drafts.items():
        for draft in drafts:
            if draft.file == file:
                document = result.documents[environment, f"{draft.file}\0{draft.metadata.name}"]
                answers.setdefault(tuple(_value(draft, document, path)), []).append(
                    f"{draft.metadata.name} in {environment}"
                )
    if not answers:
        raise UsageError(f"{file} holds no ModelService that could be read; `aibrix-compile check {file}` says why")
    for lines, places in answers.items():
        yield f"{', '.join(places)}:"
        yield from (f"  {line}" for line in lines)


def _value(draft: Draft, document: Document, path: Path) -> Iterator[str]:
    found = value_at(document, path) if path else None
    if found is not None:
        span = locate(document, path)
        yield f"{dotted(path)} = {_shown(found)}"
        if not isinstance(found, Map | Seq):
            yield f"  set at {span.file}:{span.line}:{span.column}"
        else:
            yield from (f"  {line}" for line in _origins(found))
    elif path:
        info = field_at(ModelService, path)
        if info is None and model_at(ModelService, path) is None:
            raise UsageError(f"the language has no {dotted(path)}")
        decided = [d for d in draft.decisions if d.path == path]
        if not decided:
            yield f"{dotted(path)} is not set" + (f"; default: {info.description}" if info and info.description else "")
    for decision in draft.decisions:
        if decision.path[: len(path)] == path:
            yield f"{dotted(decision.path)} -> {decision.value}"
            yield from (f"    {line}" for line in decision.because)


def _origins(node: Map | Seq) -> Iterator[str]:
    """The entries of a mapping or list and the lines that set them."""
    entries: Any = node.items() if isinstance(node, Map) else enumerate(node)
    for key, item in entries:
        span = node.at[key].span()
        yield f"{key}: {_shown(item)}  ({span.file}:{span.line}:{span.column})"


def _shown(item: Any) -> str:
    if isinstance(item, Map):
        return "{" + ", ".join(f"{key}: {_shown(one)}" for key, one in item.items()) + "}"
    if isinstance(item, Seq):
        return "[" + ", ".join(map(_shown, item)) + "]"
    return str(item)


def emitted(result: Compilation, file: str, path: Path) -> Iterator[str]:
    """Lines on which line of the spec made the field at `path` of an emitted file."""
    artifact = _artifact(result, file)
    value: Any = artifact.object
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            raise UsageError(f"{artifact.path} has no {dotted(path)}") from None
    text = yaml_text(value).rstrip("\n") if isinstance(value, dict | list) else str(value)
    yield f"{artifact.path} {dotted(path) or '(the whole object)'}:"
    yield from (f"    {line}" for line in text.splitlines()[:12])
    source, environment = artifact.source(path), artifact.path.partition("/")[0]
    project = result.workspace.project_document
    if source is not None and not source.service and project is not None:
        span = locate(project, source.path, at_key=True)
        yield "comes from"
        yield f"  {dotted(source.path)} at {span.file}:{span.line}:{span.column}, and all services of the environment"
    for draft in result.drafts[environment]:
        if source is not None and draft.metadata.name == source.service:
            yield "comes from"
            document = result.documents[environment, f"{draft.file}\0{draft.metadata.name}"]
            yield from (f"  {line}" for line in _value(draft, document, source.path))


def _artifact(result: Compilation, file: str) -> Artifact:
    """The artifact whose path `file` ends with."""
    for artifact in result.artifacts:
        if file == artifact.path or file.endswith("/" + artifact.path):
            return artifact
    raise UsageError(f"{file} is no file that a build of this project writes")
