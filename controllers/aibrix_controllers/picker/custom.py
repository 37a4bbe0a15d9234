"""A strategy that the user wrote: `(request, endpoints, now) -> scores`, the lowest wins. Why it exists apart: it is foreign code
in the path of every request, so whatever it does wrong costs the service its strategy and never an answer."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aibrix_compile.policy.routing import Endpoint


class Request(NamedTuple):
    """What a function may know. `hits`: tokens of the prompt thought to be cached on each endpoint."""

    tokens: int
    model: str
    adapter: str
    session: str
    priority: str
    tenant: str
    hits: Sequence[int]


Function = Callable[[Request, Sequence[Endpoint], int], Sequence[float]]


def load(place: str) -> tuple[Function | None, str]:
    """The function `package.module:name`, or None and why it is not there."""
    module, _, name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        return None, f"{place}: {type(error).__name__}: {error}"
    return (found, "") if callable(found) else (None, f"{place} is not a function")


def score(function: Function, request: Request, endpoints: Sequence[Endpoint], now: int) -> list[float] | str:
    """Scores for `endpoints`, or what is wrong with what it gave."""
    try:
        found = [float(one) for one in function(request, endpoints, now)]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if len(found) != len(endpoints):
        return f"{len(found)} scores for {len(endpoints)} endpoints"
    return "a score is not a number" if any(map(math.isnan, found)) else found
