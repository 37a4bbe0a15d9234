"""Highest random weight: a choice among equals that all who choose make alike, without asking each other.

Why it exists: several controllers and pickers, and one that was restarted, must break ties in the same way; and when a node
goes, only what lay on it may move. Names are hashed once; a pair then costs one multiplication, so that thousands of keys
can be weighed against hundreds of nodes.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence, Set
from hashlib import blake2b

_MASK = (1 << 64) - 1


def digest(name: str) -> int:
    """64 bits that stand for a key or a node; the same on every machine and Python."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def weight(key: int, node: int) -> int:
    """Of a pair of digests: the product, modulo 2^64, of the node and the key made odd. For one key that is a bijection, so
    different nodes never tie."""
    return (key | 1) * node & _MASK


def heaviest(key: int, nodes: Sequence[int]) -> int:
    """The position in `nodes` of the digest with the largest `weight`. ValueError: no nodes."""
    factor = key | 1  # `weight` written out: a call would cost more than the product
    weights = [factor * node & _MASK for node in nodes]
    return weights.index(max(weights))


class Buckets:
    """Nodes, by position, in the order of a key that many of them share. Each chooser breaks ties in its own way, so equals
    lie together in a bucket and are only weighed when one is chosen."""

    def __init__(self, nodes: Sequence[int]) -> None:
        self._nodes = nodes
        self._key: dict[int, tuple[int, ...]] = {}
        self._keys: list[tuple[int, ...]] = []
        self._buckets: dict[tuple[int, ...], set[int]] = {}

    def put(self, node: int, key: tuple[int, ...] | None) -> None:
        """Gives a node its place, the smallest key first; None takes it out."""
        if (old := self._key.pop(node, None)) is not None:
            self._buckets[old].remove(node)
            if not self._buckets[old]:
                del self._buckets[old], self._keys[bisect_left(self._keys, old)]
        if key is not None:
            self._key[node] = key
            if key not in self._buckets:
                self._buckets[key] = set()
                insort(self._keys, key)
            self._buckets[key].add(node)

    def first(self, chooser: int, among: Set[int], without: Set[int]) -> int | None:
        """The node of `among` and not of `without` with the smallest key, and of equal ones the heaviest for `chooser`."""
        for key in self._keys:
            if found := list((self._buckets[key] & among) - without):
                return found[heaviest(chooser, [self._nodes[node] for node in found])]
        return None
