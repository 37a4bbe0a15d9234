"""Requests that wait for a replica. Why it exists: a service that scales from zero, or an adapter that is being loaded, makes
clients wait a minute once instead of failing; bounded in number, bytes and time for each service, first come first served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aibrix_controllers.picker.decide import Refuse
from aibrix_controllers.picker.state import State


@dataclass(slots=True, eq=False)
class Held:
    """`again(now)` tries once more, and says whether the request has left; `expired` answers it with `why`."""

    service: str
    model: str
    size: int
    until: int
    why: Refuse
    again: Callable[[int], bool]
    expired: Callable[[Refuse], None]
    since: int = field(default=0)


class Room:
    """All that is held here. `state.held` says how much, to whoever asks."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._rows: dict[str, dict[Held, None]] = {}
        self.bytes: dict[str, int] = {}

    def enter(self, held: Held) -> bool:
        """False: the service's bound is reached."""
        fleet = self._state.fleets.get(held.service)
        bound = fleet.config.hold if fleet else None
        count, size = self._state.held.get(held.service, 0) + 1, self.bytes.get(held.service, 0) + held.size
        if bound is None or count > bound.requests or size > bound.bytes:
            return False
        self._rows.setdefault(held.service, {})[held] = None
        self._state.awaited[held.service, held.model] += 1
        self._state.held[held.service], self.bytes[held.service] = count, size
        return True

    def leave(self, held: Held) -> None:
        """It was answered, or its client went away; nothing happens if it is not here."""
        row = self._rows.get(held.service, {})
        if held not in row:
            return
        del row[held]
        self._state.awaited[held.service, held.model] -= 1
        if not self._state.awaited[held.service, held.model]:
            del self._state.awaited[held.service, held.model]
        self.bytes[held.service] -= held.size
        self._state.held[held.service] -= 1
        if not row:
            del self._rows[held.service], self.bytes[held.service], self._state.held[held.service]

    def release(self, service: str, now: int) -> None:
        """The service's replicas changed: whoever can go goes, in the order of arrival."""
        for held in list(self._rows.get(service, ())):
            if held.again(now):
                self.leave(held)

    def expire(self, now: int) -> None:
        for row in list(self._rows.values()):
            for held in list(row):
                if now >= held.until:
                    self.leave(held)
                    held.expired(held.why)
