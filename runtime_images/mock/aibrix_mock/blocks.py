"""The KV cache as numbered blocks: who holds which, what is in them, which is given away next.

Why it exists: capacity, prefix hits and preemption follow from it. As in vLLM, a block that nobody holds keeps its
content until it is needed, the one that has been free longest goes first, and a freed sequence gives back its last block
first, so that beginnings - which others share - live longest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b


class Chain:
    """Digests of a sequence's full blocks; each covers all before it and the salt, so equal digests mean equal prefixes."""

    __slots__ = ("_digests", "_read", "_state", "_width")

    def __init__(self, salt: bytes, width: int, read: Callable[[int, int], bytes]) -> None:
        """`width`: bytes of a block; `read(start, end)`: bytes of the sequence."""
        self._state = blake2b(salt, digest_size=8)
        self._digests: list[bytes] = []
        self._width, self._read = width, read

    def first(self, count: int) -> Sequence[bytes]:
        """Of blocks 0 .. count-1."""
        digests, width = self._digests, self._width
        if len(digests) < count:
            start = len(digests) * width
            data = self._read(start, count * width)
            for at in range(0, len(data), width):
                self._state.update(data[at : at + width])
                digests.append(self._state.digest())
        return digests if len(digests) == count else digests[:count]

    def block(self, index: int) -> bytes:
        if index >= len(self._digests):
            self.first(index + 1)
        return self._digests[index]


class BlockPool:
    def __init__(self, count: int, caching: bool = True) -> None:
        self.count, self.caching = count, caching
        self.held = 0
        """Blocks taken out of service, see `hold`."""
        self._fresh = 0  # blocks that were never used: all numbers from here on
        self._idle: OrderedDict[int, None] = OrderedDict()  # used and free, the next to go first
        self._holders: dict[int, int] = {}
        self._digest: dict[int, bytes] = {}
        self._block: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        return max(0, self.count - self.held - len(self._holders))

    @property
    def usage(self) -> float:
        """Share of the blocks that somebody holds; idle ones with content count as free."""
        return 1 - self.free / self.count

    def hold(self, share: float) -> None:
        """Takes a share of all blocks out of service; 0 gives them back."""
        self.held = int(self.count * share)

    def cached(self, digests: Iterable[bytes]) -> list[int]:
        """The blocks of the longest known beginning."""
        found = []
        for digest in digests:
            block = self._block.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def idle(self, blocks: Iterable[int]) -> int:
        """How many of them nobody holds."""
        return sum(block not in self._holders for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """One more holder for each."""
        for block in blocks:
            if block in self._holders:
                self._holders[block] += 1
            else:
                del self._idle[block]
                self._holders[block] = 1

    def take(self, count: int) -> list[int]:
        """Blocks without content; the caller has checked `free`."""
        taken = []
        for _ in range(count):
            if self._fresh < self.count:
                block, self._fresh = self._fresh, self._fresh + 1
            else:
                block, _ = self._idle.popitem(last=False)
                self._forget(block)
            self._holders[block] = 1
            taken.append(block)
        return taken

    def remember(self, block: int, digest: bytes) -> None:
        """The block holds this content now; of two with the same content, the first is found."""
        if self.caching and digest not in self._block:
            self._block[digest] = block
            self._digest[block] = digest

    def give_back(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):
            if self._holders[block] > 1:
                self._holders[block] -= 1
            else:
                del self._holders[block]
                self._idle[block] = None

    def _forget(self, block: int) -> None:
        digest = self._digest.pop(block, None)
        if digest is not None:
            del self._block[digest]
