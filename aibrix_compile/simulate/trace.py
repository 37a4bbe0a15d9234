"""What arrives at a service: requests in the order of their arrival, and a trace bent to another load.

Why a trace is not a list: a week of a busy service is 30 million requests. A Trace makes or reads them anew each time it is
walked, one after the other, so nothing holds them all, and two walks see the same requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from math import ceil
from typing import NamedTuple

from aibrix_compile.diagnostics import UsageError

SECOND = 1_000_000
MOST_TOKENS = 10_000_000  # of a prompt or an answer: ten times the longest context on offer
MOST_SECONDS = 315_360_000  # ten years; floats name each microsecond of them exactly
_FACTORS = (1e-6, 1e6)


class Request(NamedTuple):
    at: int
    """Microseconds since the trace began."""
    input: int
    """Tokens of the prompt."""
    output: int
    """Tokens of the answer."""
    blocks: tuple[int, ...] = ()
    """Ids of the prompt's consecutive blocks of Trace.block_tokens tokens, all of them or none: an equal prefix of ids is
    a prefix of the prompt whose KV cache can be used again. The last block may be partial."""
    adapter: str = ""
    session: int = -1
    """Requests of one conversation share it; -1: a conversation of its own."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests by arrival. Walking it may raise CompileError, for a file in which something is wrong: after the first
    mistake nothing more comes, so whoever gets to the end has seen a sound trace."""

    name: str
    requests: Callable[[], Iterator[Request]]
    block_tokens: int = 0
    """Tokens of a prompt block; 0 in a trace without blocks."""
    length: int | None = None
    """How many requests there are, where that is known before they come."""
    skipped: Counter[str] = field(default_factory=Counter, compare=False)
    """Rows of the file that the last walk left out, by reason."""

    def __iter__(self) -> Iterator[Request]:
        return self.requests()


def faster(trace: Trace, factor: float) -> Trace:
    """The same requests at `factor` times the rate: every time is divided by it, pauses within a conversation too.
    UsageError for a factor that is not within 1e-6 and 1e6."""
    _factor("the rate", factor)

    def requests() -> Iterator[Request]:
        for one in trace:
            yield Request(round(one.at / factor), *one[1:])

    return replace(trace, requests=requests)


def resized(trace: Trace, inputs: float = 1.0, outputs: float = 1.0) -> Trace:
    """Prompts and answers of so many times their tokens, at least 1. A prompt keeps the share that it has in common with
    others, because its blocks are scaled with it; a scaled block is rounded up to whole tokens. UsageError as above."""
    _factor("the length of prompts", inputs)
    _factor("the length of answers", outputs)
    unit = ceil(round(trace.block_tokens * inputs, 6))

    def requests() -> Iterator[Request]:
        for at, before, output, blocks, adapter, session in trace:
            tokens = min(max(1, round(before * inputs)), MOST_TOKENS)
            if blocks:
                tokens = min(tokens, len(blocks) * unit)
                blocks = blocks[: -(-tokens // unit)]
            yield Request(at, tokens, min(max(1, round(output * outputs)), MOST_TOKENS), blocks, adapter, session)

    return replace(trace, requests=requests, block_tokens=unit)


def window(trace: Trace, start_s: float = 0.0, end_s: float | None = None) -> Trace:
    """What arrives from `start_s` on and before `end_s`; the new trace begins at `start_s`. UsageError for a window that
    is empty or begins before 0."""
    if not 0 <= start_s <= MOST_SECONDS or not (end_s is None or start_s < end_s <= MOST_SECONDS):
        until = "the end" if end_s is None else f"{end_s:g} s"
        raise UsageError(
            f"there is no window from {start_s:g} s to {until}; it begins at 0 or later and ends after that"
        )
    start = round(start_s * SECOND)
    end = None if end_s is None else round(end_s * SECOND)

    def requests() -> Iterator[Request]:
        for one in trace:
            if end is not None and one.at >= end:
                return
            if one.at >= start:
                yield Request(one.at - start, *one[1:])

    return replace(trace, requests=requests, length=None)


def first(trace: Trace, count: int) -> Trace:
    """The first `count` requests; what follows in the file is not even read. UsageError for less than one."""
    if count < 1:
        raise UsageError(f"the first {count} requests are none")
    length = None if trace.length is None else min(count, trace.length)
    return replace(trace, requests=lambda: islice(trace, count), length=length)


def sampled(trace: Trace, share: float, seed: int) -> Trace:
    """About `share` of the conversations, whole ones: which, depends on their numbers and the seed alone. A request
    without a conversation is one of its own. UsageError for a share that is not above 0 and at most 1."""
    if not 0 < share <= 1:
        raise UsageError(f"a share of {share:g} is not above 0 and at most 1")
    limit = round(share * 2**64)

    def requests() -> Iterator[Request]:
        for number, one in enumerate(trace):
            name = f"{seed} {one.session}" if one.session >= 0 else f"{seed} request {number}"
            if int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") < limit:
                yield one

    return replace(trace, requests=requests, length=None)


def _factor(what: str, factor: float) -> None:
    if not _FACTORS[0] <= factor <= _FACTORS[1]:
        raise UsageError(f"{what} can not be scaled by {factor:g}; factors are within 0.000001 and 1000000")
