"""Text to tokens and prompts to answers, without a model.

Why it exists: batching, KV blocks and prefix hits need tokens, and tests need to see who answered. A token is four bytes
of UTF-8 - the ratio of English text with a real tokenizer - so that two texts share as many leading tokens as they share
bytes, and a prompt of 400 KB is 100,000 tokens at the price of one copy. Answers are words of three letters and a space:
one token each. Chat turns begin on a token's boundary, so an answer that comes back in the next turn is the same tokens
again and hits the prefix cache, as it does on a real engine.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b

TOKEN_BYTES = 4
WORDS = (
    "the and was his had one all not are but for you can out two may who did see new her its way how our now old any "
    "day get man use boy say she too let put end far own set few ask run try big off why men add air eye sun sea red car "
    "top yes win map law art ice oil"
)
_VOCABULARY = [word.encode() + b" " for word in WORDS.split() if len(word) == TOKEN_BYTES - 1][:64]
_MASK = 2**64 - 1


def padded(data: bytes, filler: bytes = b"\0") -> bytes:
    return data + filler * (-len(data) % TOKEN_BYTES)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may carry half of a pair


def encode(text: str) -> bytes:
    """The tokens of a text, four bytes each; the last one is filled up."""
    return padded(_bytes(text))


def to_ids(data: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(data) // TOKEN_BYTES}I", data))


def from_ids(ids: Sequence[int]) -> bytes:
    """struct.error where an id is not a whole number of 32 bits."""
    return struct.pack(f"<{len(ids)}I", *ids)


def render(messages: Iterable[tuple[str, str]]) -> bytes:
    """A chat of (role, text) as tokens, ready for the assistant's next words."""
    turns = [padded(_bytes(f"<|{role}|>\n"), b"\n") + padded(_bytes(text), b" ") for role, text in messages]
    return b"".join(turns) + padded(b"<|assistant|>\n", b"\n")


class Answer:
    """The endless answer to a prompt: a function of the seed, the prompt and who answers, made as far as it is read."""

    __slots__ = ("_made", "_state")

    def __init__(self, seed: int, prompt: bytes, name: str = "") -> None:
        """`name`: of an adapter that changes answers; the answer begins with it in brackets."""
        digest = blake2b(prompt, digest_size=8, key=name.encode()[:64], salt=struct.pack("<q", seed)).digest()
        self._state = int.from_bytes(digest, "little")
        self._made = bytearray(padded(f"[{name}] ".encode("ascii", "replace"), b" ") if name else b"")

    def fraction(self) -> float:
        """A number in [0, 1) that belongs to this answer, for drawing its length."""
        return self._state / 2**64

    def data(self, start: int, end: int) -> bytes:
        """Tokens `start` to `end` as bytes."""
        made, state = self._made, self._state
        while len(made) < end * TOKEN_BYTES:
            state = (state * 6364136223846793005 + 1442695040888963407) & _MASK  # Knuth's MMIX generator
            made += _VOCABULARY[state >> 58]
        self._state = state
        return bytes(made[start * TOKEN_BYTES : end * TOKEN_BYTES])

    def text(self, start: int, end: int) -> str:
        return self.data(start, end).decode("ascii")

    def find(self, stops: Iterable[str], tokens: int, after: int) -> tuple[int, str] | None:
        """The first of `stops` that is complete within `tokens` and after `after` tokens: where it begins, in
        characters, and which; the earliest end wins, then the earliest in `stops`."""
        text, best = self.text(0, tokens), None
        for stop in stops:
            at = text.find(stop, max(0, after * TOKEN_BYTES - len(stop) + 1))
            if at >= 0 and (best is None or at + len(stop) < best[0] + len(best[1])):
                best = (at, stop)
        return best
