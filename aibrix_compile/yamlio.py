"""The only reader of YAML: strict, bounded, and every value remembers the line that set it.

libyaml's events are turned into values in one pass. Scalars stay text - `Plain` when they were written without quotes -
because the field that receives a value decides what it means, not YAML 1.1's guess (`version: 0.10`, `name: NO`).
Mappings and lists are `Map` and `Seq`: a dict and a list that also hold where each key and item stands, file included,
so an overlay that copies an entry copies its origin with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml

from aibrix_compile.diagnostics import CompileError, Diagnostic, Path, Related, Severity, Span

MAX_BYTES = 2 * 1024 * 1024  # 10,000 adapter items are 0.8 MB
MAX_DEPTH = 64
MAX_NODES = 250_000  # after aliases are counted in full; 10,000 adapter items are 90,000
MAX_FINDINGS = 1000  # what nobody reads any more
MAX_DIRECTIVES = 16  # libyaml compares each %TAG with all before it

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_ODD_BREAKS = ("\x85", "\u2028", "\u2029")
_COMMENT = re.compile("#[^\r\n\x85\u2028\u2029]*")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_BEGINS_TOO_EARLY = {  # what libyaml notices only lines later -> what to do where it begins
    "could not find expected ':'": "write it as key: value, with a space after the colon",
    "found unexpected end of stream": "close the quote that opens here",
}


class Plain(str):
    """A scalar that was written without quotes; its text, exactly."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class SourceFile:
    """A file as read: its name in messages and its text."""

    name: str
    text: str
    odd_breaks: bool = field(init=False)  # libyaml counts them as line ends, editors do not

    def __post_init__(self) -> None:
        odd = any(c in self.text for c in _ODD_BREAKS) or self.text.count("\r") != self.text.count("\r\n")
        object.__setattr__(self, "odd_breaks", odd)

    def span(self, start: Any, end: Any) -> Span:
        """The span between two libyaml marks, cut at the end of its first line when it runs over several."""
        if self.odd_breaks or start.index >= len(self.text):
            first = _point(self.name, self.text, start.index)
            width = max(1, len(self.text[start.index : end.index].partition("\n")[0].rstrip()))
            return Span(self.name, first.line, first.column, first.line, first.column + width)
        if end.line > start.line:
            newline = self.text.find("\n", start.index)
            line_end = len(self.text) if newline < 0 else newline
            width = max(1, len(self.text[start.index : line_end].rstrip()))
            return Span(self.name, start.line + 1, start.column + 1, start.line + 1, start.column + 1 + width)
        return Span(self.name, start.line + 1, start.column + 1, end.line + 1, max(end.column, start.column + 1) + 1)


class Place(NamedTuple):
    """Where an entry of a Map or Seq was written; `key_*` are None for items of a list."""

    source: SourceFile
    key_start: Any
    key_end: Any
    start: Any
    end: Any
    block: bool  # a block collection: its own span runs on for lines, so its key or first line stands for it

    def span(self, at_key: bool = False) -> Span:
        if self.key_start is not None and (at_key or self.block):
            return self.source.span(self.key_start, self.key_end)
        return self.source.span(self.start, self.end)


class Map(dict[str, Any]):
    """A mapping; `at[key]` is the Place of the entry."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[str, Place] = {}

    def put(self, key: str, value: Any, place: Place) -> None:
        self[key] = value
        self.at[key] = place


class Seq(list[Any]):
    """A list; `at[i]` is the Place of item i."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        super().__init__()
        self.at: list[Place] = []

    def put(self, value: Any, place: Place) -> None:
        self.append(value)
        self.at.append(place)


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """One YAML document; `place` is that of its root."""

    value: Any
    place: Place

    @property
    def source(self) -> SourceFile:
        return self.place.source


def locate(document: Document, path: Path, at_key: bool = False) -> Span:
    """The span of the value (or key) at `path`; of its nearest existing ancestor where there is none."""
    node, place = document.value, document.place
    for depth, step in enumerate(path):
        if isinstance(node, Map) and step in node:
            place, node = node.at[str(step)], node[str(step)]
        elif isinstance(node, Seq) and isinstance(step, int) and step < len(node):
            place, node = node.at[step], node[step]
        else:
            return place.span(at_key=depth > 0 and isinstance(node, Map | Seq))  # a short form has no such key
    return place.span(at_key)


def value_at(document: Document, path: Path) -> Any:
    """The value at `path`, or None."""
    node = document.value
    for step in path:
        if (isinstance(node, Map) and step in node) or (
            isinstance(node, Seq) and isinstance(step, int) and step < len(node)
        ):
            node = node[step]  # type: ignore[index]
        else:
            return None
    return node


def read(path: FilePath, name: str) -> SourceFile:
    """The file's text. CompileError when it is no text that YAML may hold; OSError is the caller's."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    return decode(data, name)


def decode(data: bytes, name: str) -> SourceFile:
    """Bytes to text: UTF-8 (a byte-order mark is dropped), bounded, without control characters."""
    if len(data) > MAX_BYTES:
        raise _refuse(
            "AC004",
            Span(name, 1, 1, 1, 2),
            f"the file is larger than {MAX_BYTES // 1024} KiB",
            "split it into several files",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        raise _refuse(
            "AC003",
            _point(name, before, len(before)),
            f"byte 0x{data[error.start]:02x} is not UTF-8",
            "save the file as UTF-8",
        ) from None
    if (control := _CONTROL.search(text)) is not None:
        raise _refuse(
            "AC003",
            _point(name, text, control.start()),
            f"control character U+{ord(control.group()):04X} is not allowed in YAML",
            "remove it",
        )
    return SourceFile(name, text)


def parse(source: SourceFile) -> tuple[list[Document], list[Diagnostic]]:
    """All documents of a file and what is wrong with them short of a syntax error (which raises CompileError)."""
    builder = _Builder(source)
    if source.text.count("\n%TAG") > MAX_DIRECTIVES:
        raise _refuse("AC004", _point(source.name, source.text, 0), "too many %TAG directives", "remove them")
    try:
        documents = list(builder.documents())
    except yaml.MarkedYAMLError as error:
        problem = (error.problem or "not valid YAML").strip()
        hint = _BEGINS_TOO_EARLY.get(problem, "") if error.context_mark else ""
        mark = error.context_mark if hint else error.problem_mark or error.context_mark
        span = _point(source.name, source.text, mark.index if mark else 0)
        context = f" ({error.context})" if error.context else ""
        hint = hint or _syntax_hint(source, mark)
        code = "AC004" if "nesting depth" in problem else "AC001"
        raise _refuse(code, span, f"YAML syntax: {problem}{context}", hint) from None
    except yaml.YAMLError as error:
        raise _refuse(
            "AC001", _point(source.name, source.text, 0), f"YAML syntax: {str(error).splitlines()[0]}"
        ) from None
    return documents, builder.findings


def comments(source: SourceFile) -> list[tuple[int, int, str]]:
    """Line, column and text (from its #) of each comment of a file that parses."""
    text, found = source.text, list[tuple[int, int, str]]()
    line, line_start, counted = 1, 0, 0
    for start, end in _between_tokens(text):
        for match in _COMMENT.finditer(text, start, end):
            line += text.count("\n", counted, match.start())
            line_start = max(line_start, text.rfind("\n", counted, match.start()) + 1)
            counted = match.start()
            found.append((line, counted - line_start + 1, match.group().rstrip()))
    return found


def _between_tokens(text: str) -> Iterator[tuple[int, int]]:
    """The stretches that belong to no token; there a # begins a comment, elsewhere it is text."""
    loader, last = _LOADER(text), 0
    try:
        while (token := loader.get_token()) is not None:
            yield last, token.start_mark.index
            if type(token) is yaml.ScalarToken and token.style in ("|", ">"):  # its first line may end in a comment
                first = text.find("\n", token.start_mark.index)
                yield token.start_mark.index, len(text) if first < 0 else first
            last = max(last, token.end_mark.index)
    except yaml.YAMLError:
        return
    finally:
        loader.dispose()


class _Builder:
    """Events to values. A recursive descent whose depth is bounded by MAX_DEPTH."""

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.findings: list[Diagnostic] = []
        self.anchors: dict[str, tuple[Any, int, int]] = {}  # value, how many values and how many levels it has
        self.nodes = 0
        self.deepest = 0
        self.next: Any = None

    def documents(self) -> Iterator[Document]:
        loader = _LOADER(self.source.text)
        try:
            self.next = loader.get_event
            while True:
                event = self.next()
                kind = type(event)
                if kind is yaml.StreamEndEvent:
                    return
                if kind is yaml.DocumentStartEvent:
                    self.anchors = {}
                    root = self.next()
                    value, end = self.node(root, 0)
                    block = isinstance(value, Map | Seq)
                    yield Document(value, Place(self.source, None, None, root.start_mark, end, block))
        finally:
            loader.dispose()

    def node(self, event: Any, depth: int) -> tuple[Any, Any]:
        """The value that starts with `event`, and its end mark."""
        kind = type(event)
        self.count(event, 1)
        if kind is yaml.ScalarEvent:
            if event.tag is not None:
                self.refuse_tag(event)
            text = event.value
            if event.style == '"':
                self.refuse_control(event)
            value: Any = text
            if event.style is None or event.style == "":
                value = None if text in _NULLS else Plain(text)
            if event.anchor is not None:
                self.anchors[event.anchor] = (value, 1, 0)
            return value, event.end_mark
        if kind is yaml.AliasEvent:
            return self.alias(event, depth), event.end_mark
        if event.tag is not None:
            self.refuse_tag(event)
        before, outside, self.deepest = self.nodes, self.deepest, depth
        self.descend(event, depth + 1)
        filled, end = (self.mapping if kind is yaml.MappingStartEvent else self.sequence)(depth + 1)
        if event.anchor is not None:
            self.anchors[event.anchor] = (filled, self.nodes - before + 1, self.deepest - depth)
        self.deepest = max(self.deepest, outside)
        return filled, end

    def mapping(self, depth: int) -> tuple[Map, Any]:
        result = Map()
        while True:
            key = self.next()
            if type(key) is yaml.MappingEndEvent:
                return result, key.end_mark
            text = self.key(key, depth)
            event = self.next()
            value, end = self.node(event, depth)
            block = not getattr(event, "flow_style", True)
            place = Place(self.source, key.start_mark, key.end_mark, event.start_mark, end, block)
            if text is None:
                continue
            if text in result:
                first = Related(result.at[text].span(at_key=True), "first set here")
                self.find("AC002", key, f'duplicate key "{text[:60]}"', "keep one of the two", (first,))
                continue
            result.put(text, value, place)

    def sequence(self, depth: int) -> tuple[Seq, Any]:
        result = Seq()
        while True:
            event = self.next()
            if type(event) is yaml.SequenceEndEvent:
                return result, event.end_mark
            value, end = self.node(event, depth)
            block = not getattr(event, "flow_style", True)
            result.put(value, Place(self.source, None, None, event.start_mark, end, block))

    def key(self, event: Any, depth: int) -> str | None:
        """The key's text; None (with a finding) for keys that no field can have."""
        if type(event) is yaml.ScalarEvent:
            self.count(event, 1)
            if event.tag is not None:
                self.refuse_tag(event)
            text: str = event.value
            if text == "<<" and not event.style:
                self.find(
                    "AC005", event, "merge keys (<<) are not supported", "write the fields out, or use an overlay"
                )
                return None
            if event.anchor is not None:
                self.anchors[event.anchor] = (text, 1, 0)
            if event.style == '"':
                self.refuse_control(event)
            return text
        self.find("AC005", event, "a key must be plain text", "write the key as one word")
        if type(event) is not yaml.AliasEvent:
            self.node(event, depth)
        return None

    def alias(self, event: Any, depth: int) -> Any:
        if event.anchor not in self.anchors:
            raise self.stop(
                "AC005", event, f'alias "*{event.anchor[:60]}" has no anchor before it', "define the anchor first"
            )
        value, weight, levels = self.anchors[event.anchor]
        self.count(event, weight)
        self.descend(event, depth + levels)
        return value

    def descend(self, event: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self.stop("AC004", event, f"nested deeper than {MAX_DEPTH} levels", "flatten the document")
        self.deepest = max(self.deepest, depth)

    def count(self, event: Any, weight: int) -> None:
        self.nodes += weight
        if self.nodes > MAX_NODES:
            raise self.stop(
                "AC004",
                event,
                f"more than {MAX_NODES} values once aliases are expanded",
                "split the file; use fewer aliases",
            )

    def refuse_tag(self, event: Any) -> None:
        self.find(
            "AC005",
            event,
            f'YAML tags ("{event.tag[:60]}") are not supported',
            "remove the tag; the field decides the type",
        )

    def refuse_control(self, event: Any) -> None:
        if (found := _CONTROL.search(event.value)) is not None:
            self.find("AC003", event, f"control character U+{ord(found.group()):04X} is not allowed", "remove it")

    def find(self, code: str, event: Any, message: str, hint: str, related: tuple[Related, ...] = ()) -> None:
        if len(self.findings) == MAX_FINDINGS:
            raise self.stop("AC004", event, f"more than {MAX_FINDINGS} mistakes", "correct these first")
        span = self.source.span(event.start_mark, event.end_mark)
        self.findings.append(Diagnostic(code, Severity.ERROR, message, span, hint, related=related))

    def stop(self, code: str, event: Any, message: str, hint: str) -> CompileError:
        span = self.source.span(event.start_mark, event.end_mark)
        return CompileError([*self.findings, Diagnostic(code, Severity.ERROR, message, span, hint)])


def _refuse(code: str, span: Span, message: str, hint: str = "") -> CompileError:
    return CompileError([Diagnostic(code, Severity.ERROR, message, span, hint)])


def _point(name: str, text: str, index: int) -> Span:
    """The one-character span at `index` of `text`."""
    line_start = text.rfind("\n", 0, index) + 1
    line, column = text.count("\n", 0, index) + 1, index - line_start + 1
    return Span(name, line, column, line, column + 1)


def _syntax_hint(source: SourceFile, mark: Any) -> str:
    if mark is None:
        return ""
    line = source.text.split("\n")[min(mark.line, source.text.count("\n"))]
    if "\t" in line[: mark.column + 1]:
        return "indent with spaces, not tabs"
    return "check the indentation, quotes and brackets on and above this line"
