"""aibrix.lock: what moves in the world - tags, branches, adapters - pinned to what it was when the lock was written.

The lock is read, never written, by a build: the network has no place in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Locked:
    """A pinned value and where it stands, such as `aibrix.lock:12`."""

    value: str
    where: str


@dataclass(frozen=True, slots=True)
class LockedAdapter:
    digest: str
    rank: int | None
    where: str


@dataclass(frozen=True, slots=True)
class Lock:
    """`images` by reference, `models` by `uri@revision`, `adapters` by uri."""

    images: Mapping[str, Locked] = field(default_factory=dict)
    models: Mapping[str, Locked] = field(default_factory=dict)
    adapters: Mapping[str, LockedAdapter] = field(default_factory=dict)
