"""What a caller may ask for by name and address, as failures that it is told of."""

from __future__ import annotations

from collections.abc import Iterable

from aibrix_compile.policy import artifacts
from aibrix_compile.policy.artifacts import NAME, Uri
from aibrix_runtime.errors import Failed

__all__ = ["NAME", "Uri", "allowed", "checked_name", "parse"]


def checked_name(name: object, model: str) -> str:
    """Failed `bad_name`."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Failed(
            "bad_name", f"{ascii(name)[:120]} is no name of an adapter: letters, digits, ._- and at most 100 of them"
        )
    if name == model:
        raise Failed("bad_name", f"{name} is the base model's name")
    return name


def parse(text: object) -> Uri:
    """Failed `bad_request`."""
    try:
        return artifacts.parse(text)
    except artifacts.Refused as error:
        raise Failed("bad_request", str(error)) from None


def allowed(uri: Uri, prefixes: Iterable[str]) -> None:
    """Failed `uri_not_allowed`."""
    wanted = tuple(prefixes)
    if not artifacts.within(uri, wanted):
        among = ", ".join(wanted[:5]) + (", ..." if len(wanted) > 5 else "")
        raise Failed("uri_not_allowed", f"{uri} is not below {among or 'anything: nothing is allowed'}")
