"""What `compare` finds, as data. Sentences are Lines: what comes from a spec stands beside the text, so that each output can
quote it in its own way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from aibrix_compile.diff.prices import Size

Quote = Callable[[str], str]
"""How an output marks text that comes from a spec."""


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence; each {} in `text` stands for one of `names`."""

    text: str
    names: tuple[str, ...] = ()

    def show(self, quote: Quote = str) -> str:
        return self.text.format(*map(quote, self.names))


class Kind(StrEnum):
    NEW = "new"
    GONE = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Change:
    """A value of the spec that is another now, and the pools that restart because of it. `place` is file:line, in the new
    state wherever the value is still there."""

    path: str
    before: str
    after: str
    place: str
    restarts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a pod that changes though no line of the service's own spec says so, and why if that is known."""

    path: str
    before: str
    after: str
    because: str


@dataclass(frozen=True, slots=True)
class Restart:
    """All pods of a pool are replaced. `seconds` is the estimate at the fewest and at the most replicas, (0, 0) where there
    are none; `left` how many of the fewest replicas answer meanwhile."""

    pool: str
    fields: tuple[Field, ...]
    nodes: int
    surge: int
    unavailable: int
    left: int
    seconds: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PoolChange:
    """A pool whose workload is created or deleted; changed means both: another object takes the place of the old one.
    `seconds` is how long a new replica takes to start."""

    pool: str
    kind: Kind
    workload: str
    seconds: int


@dataclass(frozen=True, slots=True)
class AdapterChange:
    """`what` is another: rank 16 -> 32."""

    name: str
    what: str


@dataclass(frozen=True, slots=True)
class AdapterChanges:
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[AdapterChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Risk:
    """`kind` is a word that scripts can rely on."""

    kind: str
    line: Line


@dataclass(frozen=True, slots=True)
class EnvironmentRisk:
    """A risk of all services of an environment together."""

    environment: str
    risk: Risk


@dataclass(frozen=True, slots=True)
class Objects:
    """Paths of files, sorted; `noted` differ in the annotation that says where they came from, and in nothing else."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.noted)


@dataclass(frozen=True, slots=True)
class ServiceDifference:
    """One service in one environment. `order` is what Argo CD does, first to last."""

    environment: str
    name: str
    kind: Kind
    before: Size
    after: Size
    changes: tuple[Change, ...]
    restarts: tuple[Restart, ...]
    pools: tuple[PoolChange, ...]
    adapters: AdapterChanges
    notes: tuple[Line, ...]
    risks: tuple[Risk, ...]
    order: tuple[Line, ...]

    @property
    def minor(self) -> bool:
        """Whether only objects around the pods differ, without a line of the service's own: how it will be rolled, say."""
        own = self.changes or self.restarts or self.pools or self.adapters != AdapterChanges()
        return self.before == self.after and not own


@dataclass(frozen=True, slots=True)
class Difference:
    """`risks` are those of whole environments; `project` are changes of aibrix.yaml."""

    services: tuple[ServiceDifference, ...]
    risks: tuple[EnvironmentRisk, ...]
    project: tuple[Change, ...]
    objects: Objects

    def __bool__(self) -> bool:
        return bool(self.services or self.project or self.objects)


def as_data(value: Any) -> Any:
    """A Difference as JSON data; money in its currency, with cents."""
    if isinstance(value, Line):
        return value.show()
    if dataclasses.is_dataclass(value):
        return {one.name: as_data(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [as_data(one) for one in value]
    return float(round(value, 2)) if isinstance(value, Decimal) else value
