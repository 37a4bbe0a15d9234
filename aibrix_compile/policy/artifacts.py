"""Addresses of artifacts: read strictly, compared with an allow-list. Why it exists: a uri comes from whoever may write an adapter's
item, and must not lead out of the places that were allowed. The compiler refuses early what the runtime would refuse."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

SCHEMES = ("s3", "gs", "https", "hf", "file", "pvc")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Of an adapter: it is a folder's name, too."""
_LONGEST = 2048
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
_PART = re.compile(r"[A-Za-z0-9._=+@,~ -]+")


class Refused(ValueError):
    """What is wrong with an address."""


class Uri(NamedTuple):
    """`path` has no slash at either end; `revision` of hf:// alone."""

    scheme: str
    host: str
    path: str
    revision: str = ""

    def __str__(self) -> str:
        first, slash, rest = self.path.partition("/")
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.scheme}://{self.host}/{first}{revision}{slash}{rest}"


def parse(text: object) -> Uri:
    """Refused, in words that say what is wrong. Nothing is decoded or normalised: what would need it is refused, so
    that what was compared with the allow-list is what is opened."""
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST:
        raise Refused(f"a uri is a text of at most {_LONGEST} characters")
    shown = ascii(text)[:160]
    scheme, mark, rest = text.partition("://")
    if not mark or scheme not in SCHEMES:
        raise Refused(f"{shown} begins with none of {', '.join(f'{one}://' for one in SCHEMES)}")
    host, _, path = rest.partition("/")
    if any(one in rest for one in "%?#\\"):
        raise Refused(f"{shown} has one of % ? # \\, which no folder's address needs")
    parts = [] if path.strip("/") == "" else path.removesuffix("/").split("/")
    if bad := next((part for part in parts if part in (".", "..") or not _PART.fullmatch(part)), None):
        raise Refused(f"{shown} has {bad!a} in its path")
    if "" in parts:
        raise Refused(f"{shown} has an empty part in its path")
    if scheme == "file":
        if host:
            raise Refused(f"{shown} names a host; file:///folder is wanted")
        return Uri("file", "", "/".join(parts))
    if not _HOST.fullmatch(host):
        raise Refused(f"{shown} has no plain host after ://")
    if scheme == "hf":
        return _hub(host, parts, shown)
    return Uri(scheme, host.lower() if scheme == "https" else host, "/".join(parts))


def _hub(org: str, parts: list[str], shown: str) -> Uri:
    repo, _, revision = parts[0].partition("@") if parts else ("", "", "")
    if not NAME.fullmatch(repo):
        raise Refused(f"{shown} is not hf://org/repo, with @revision and a folder where wanted")
    return Uri("hf", org, "/".join([repo, *parts[1:]]), revision)


def within(uri: Uri, prefixes: Iterable[str]) -> bool:
    """Whether it lies below one of them, each of which ends with a slash. A revision plays no part in it."""
    whole = f"{uri._replace(revision='')}/"
    return whole.startswith(tuple(prefixes) or "\0")


def root(uri: Uri) -> str:
    """The smallest prefix of a place: its bucket, host, claim or organisation; of file:// its folder."""
    if uri.scheme == "file":
        return f"file:///{uri.path.rpartition('/')[0]}/".replace("////", "///")
    return f"{uri.scheme}://{uri.host}/"
