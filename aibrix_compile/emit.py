"""JSON data -> the one canonical YAML text, and JSON text.

Keys keep the order in which backends put them. A string is written plain only when every YAML reader - 1.1 or 1.2, Python's
or Go's - reads it back as that string; everything else is quoted with JSON's escapes, and text of several lines is a
literal block. No aliases, no folding, no line width: the same value is the same bytes everywhere.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

# A word that begins and ends harmlessly and has nothing inside that any reader takes for structure.
_PLAIN = re.compile(
    r"[A-Za-z_/][A-Za-z0-9_./@%+~-]*(?:[: ,=;()][A-Za-z0-9_./@%+~-]+)*\Z|-{1,2}[A-Za-z][A-Za-z0-9_./@%+~=:,-]*(?<!:)\Z"
)
_RESOLVED = re.compile(r"(?i:y|yes|n|no|on|off|true|false|null|nan|-?inf)\Z")
# What readers refuse or take for a line's end, and what turns text round on a reviewer's screen.
_UNSEEN = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff"
_BLOCK = re.compile(rf"[^{_UNSEEN}]*\Z")
_TO_ESCAPE = re.compile(rf'["\\\t\n\xa0{_UNSEEN}]')
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_LONGEST_KEY = 1000  # a reader looks no further than 1024 characters for the colon


def yaml_text(value: Any) -> str:
    """`value` as one YAML document with a final newline. TypeError for what JSON has not, and for None."""
    kind = type(value)
    if kind not in _WRITERS:
        return f"{_scalar(value)}\n"
    if not value:
        return "{}\n" if kind is dict else "[]\n"
    lines: list[str] = []
    _WRITERS[kind](value, "", lines.append)
    return "".join(lines)


def json_text(value: Any) -> str:
    """`value` as indented JSON with a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _mapping(value: dict[str, Any], indent: str, put: Callable[[str], None]) -> None:
    for key, item in value.items():
        if type(key) is not str:
            raise TypeError(f"a key is text, not {type(key).__name__}")
        name = _string(key)
        put(f"{indent}{name}:" if len(name) <= _LONGEST_KEY else f"{indent}? {name}\n{indent}:")
        _entry(item, indent + "  ", put)


def _sequence(value: list[Any], indent: str, put: Callable[[str], None]) -> None:
    for item in value:
        put(f"{indent}-")
        if isinstance(item, dict) and item:
            inner: list[str] = []
            _mapping(item, indent + "  ", inner.append)
            inner[0] = inner[0][len(indent) + 1 :]  # the first key stands on the dash's line
            put("".join(inner))
        else:
            _entry(item, indent + "  ", put)


_WRITERS: dict[type, Callable[[Any, str, Callable[[str], None]], None]] = {dict: _mapping, list: _sequence}


def _entry(item: Any, indent: str, put: Callable[[str], None]) -> None:
    """What follows `key:` or `-`."""
    kind = type(item)
    if kind is str:
        if "\n" in item and _fits_block(item):
            put(_literal(item, indent))
        else:
            put(f" {_string(item)}\n")
    elif kind in _WRITERS:
        if item:
            put("\n")
            _WRITERS[kind](item, indent, put)
        else:
            put(" {}\n" if kind is dict else " []\n")
    else:
        put(f" {_scalar(item)}\n")


def _scalar(item: Any) -> str:
    if isinstance(item, str):
        return _string(item)
    if item is True or item is False:
        return "true" if item else "false"
    if type(item) is int:
        return str(item)
    if type(item) is float and math.isfinite(item):
        text = repr(item)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")  # 1e+16 has no dot, 1.1 wants one
    raise TypeError(f"{item!r} can not be written")


@lru_cache(maxsize=16384)
def _string(text: str) -> str:
    if _PLAIN.match(text) and not _RESOLVED.match(text) and len(text) < 1024:
        return text
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("a lone surrogate is no text")
    return f'"{_TO_ESCAPE.sub(_escaped, text)}"'


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    if (short := _ESCAPES.get(character)) is not None:
        return short
    code = ord(character)
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}"


def _fits_block(text: str) -> bool:
    """Whether a literal block gives the text back: printable, and more than empty lines."""
    return bool(_BLOCK.match(text)) and text.strip("\n") != ""


def _literal(text: str, indent: str) -> str:
    body = text.rstrip("\n")
    ends = len(text) - len(body)
    deeper = "2" if text[0] in " \t\n" else ""  # the first line does not show how far the block is indented
    chomp = "-" if ends == 0 else "" if ends == 1 else "+"
    lines = "\n".join(indent + line if line else "" for line in body.split("\n"))
    return f" |{deeper}{chomp}\n{lines}\n" + "\n" * max(0, ends - 1)
