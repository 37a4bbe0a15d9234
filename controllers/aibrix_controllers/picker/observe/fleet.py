"""Which replicas there are. Why it exists: one part finds replicas (Kubernetes or a file), another asks each of them; both
need the same list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from aibrix_controllers.picker.state import State

Clock = Callable[[], int]
"""Microseconds of time.monotonic."""
Key = tuple[str, str]
"""Service and address."""


class Note(Protocol):
    """Something that a person may want to know: a line of the log and a count by its name."""

    def __call__(self, event: str, /, **fields: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Replica:
    pool: str
    ready: bool
    draining: bool = False
    incarnation: str = ""
    """Changes when the engine was started anew, and its KV cache is empty."""


class Fleet:
    """`changed` is set when a replica came or went; who waits for it clears it. `begun` is set when there is a first list: until
    then that a service has no replicas means nothing."""

    def __init__(self, state: State, clock: Clock, note: Note, *, probed: bool = False) -> None:
        """`probed`: nobody says which replicas are ready, so those are that answer."""
        self.state, self.clock, self.note, self.probed = state, clock, note, probed
        self.replicas: dict[Key, Replica] = {}
        self.changed, self.begun = asyncio.Event(), asyncio.Event()

    def replace(self, service: str, found: Mapping[str, Replica]) -> None:
        """These, by address, are all replicas of a service."""
        for key in [key for key in self.replicas if key[0] == service and key[1] not in found]:
            del self.replicas[key]
            self.state.gone(*key)
            self.changed.set()
        for address, replica in found.items():
            self._put((service, address), replica)

    def services(self) -> set[str]:
        return {service for service, _ in self.replicas}

    def heard(self, key: Key, *, listening: bool) -> None:
        """Whether somebody listens at a replica's address."""
        known = self.replicas.get(key)
        if not self.probed or known is None or known.ready == listening:
            return
        incarnation = known.incarnation if listening else f"{int(known.incarnation or 0) + 1}"
        self._put(key, replace(known, ready=listening, incarnation=incarnation))

    def _put(self, key: Key, replica: Replica) -> None:
        if key not in self.replicas:
            self.changed.set()
        self.replicas[key] = replica
        self.state.replica(
            *key,
            replica.pool,
            ready=replica.ready,
            draining=replica.draining,
            incarnation=replica.incarnation,
            now=self.clock(),
        )
