"""How text from specs is quoted: it may be hostile, and neither a terminal, nor a CI log, nor a comment may obey it."""

from __future__ import annotations

import re
import unicodedata

_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))  # would move the cursor or turn the text round
_CI_COMMAND = re.compile(r"##(?=\w*\[)|::")  # what CI systems obey in a log's line
_LONGEST = 200
_UNMARKED = re.compile(r"[^`|\\\n]+\Z")  # fits between backticks, in a table as well
_HARMLESS = re.compile(r"[^A-Za-z0-9 ,/=+(){}'-]")


def plain(text: str) -> str:
    """For a terminal or a log."""
    return _CI_COMMAND.sub(lambda match: match[0][0] + f"\\u{{{ord(match[0][1]):x}}}", "".join(map(_glyph, text)))


def _glyph(character: str) -> str:
    return f"\\u{{{ord(character):x}}}" if unicodedata.category(character) in _UNSEEN else character


def code(text: str) -> str:
    """For Markdown: between backticks nothing is a mention, a link or HTML; what could end them goes as `html`."""
    clear = _cut(text)
    return f"`{clear}`" if _UNMARKED.match(clear) and clear == clear.strip() else html(text)


def html(text: str) -> str:
    """The same where Markdown is not read, and for any text at all: only entities stand in the element."""
    return f"<code>{_HARMLESS.sub(lambda match: f'&#{ord(match[0])};', _cut(text)) or ' '}</code>"


def _cut(text: str) -> str:
    clear = "".join(map(_glyph, text))
    return clear if len(clear) <= _LONGEST else f"{clear[: _LONGEST - 3]}..."
