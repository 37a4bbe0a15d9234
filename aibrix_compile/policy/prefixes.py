"""Which replica probably has which prompt prefix in its KV cache: an index of what was sent where, forgotten as engines forget.

Why: engines do not say what they cache; the picker knows what it sent. Blocks are named by chained 64-bit hashes of the
prompt's bytes (the caller hashes, with the adapter as a salt), so an equal hash means an equal prefix up to its end. A walk
over a prompt's blocks costs one dictionary lookup each, whatever the number of replicas: a bit mask says who has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice


class PrefixIndex:
    """Replicas are small numbers, used again after `forget`. Each is bounded to what its KV cache can hold."""

    __slots__ = ("_held", "_holders", "_limits")

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        """Block -> bit mask of replicas."""
        self._held: dict[int, dict[int, None]] = {}
        """Replica -> its blocks, least recently used first."""
        self._limits: dict[int, int] = {}

    def admit(self, replica: int, blocks: int) -> None:
        """A replica whose KV cache has room for so many blocks; it holds none."""
        self.forget(replica)
        self._held[replica], self._limits[replica] = {}, blocks

    def forget(self, replica: int) -> None:
        """The replica died or was restarted, and its cache with it."""
        bit = ~(1 << replica)
        for block in self._held.pop(replica, ()):
            self._drop(block, bit)

    def match(self, blocks: Sequence[int], replicas: Sequence[int]) -> list[int]:
        """For each of `replicas` how many leading blocks it probably has."""
        holders, depth, mask = self._holders, 0, 0
        for replica in replicas:
            mask |= 1 << replica
        lost: list[tuple[int, int]] = []
        for block in blocks:
            left = mask & holders.get(block, 0)
            if left != mask:
                lost.append((depth, mask ^ left))
                mask = left
                if not mask:
                    break
            depth += 1
        found = dict.fromkeys(replicas, depth)
        for hits, gone in lost:
            while gone:
                low = gone & -gone
                found[low.bit_length() - 1] = hits
                gone ^= low
        return [found[replica] for replica in replicas]

    def remember(self, replica: int, blocks: Sequence[int]) -> None:
        """The replica gets a prompt of these blocks; what it used least recently makes room."""
        held, holders, bit = self._held[replica], self._holders, 1 << replica
        for block in reversed(blocks):  # the end of a chain is forgotten before its beginning
            if block in held:
                del held[block]
            else:
                holders[block] = holders.get(block, 0) | bit
            held[block] = None
        over = len(held) - self._limits[replica]
        if over > 0:  # all at once: each look at a dictionary's first entry passes those that were taken out before
            for oldest in list(islice(held, over)):
                del held[oldest]
                self._drop(oldest, ~bit)

    def held(self, replica: int) -> int:
        """Blocks that it is thought to have."""
        return len(self._held[replica])

    def _drop(self, block: int, others: int) -> None:
        left = self._holders[block] & others
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]
