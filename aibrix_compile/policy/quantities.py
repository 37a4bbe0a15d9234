"""What a number of the autoscaler means, as a type: a mean of each replica, a total over replicas and a ratio do not mix.

Why: all three are floats, and a scaler that divides a mean by a target as if it were a total asks for 3 replicas where 11 are
right, without any error. Here each has only the operations that make sense, and the type checker refuses the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

EPSILON = 1e-9
"""Replicas; what rounding may leave of a whole number."""


def whole(replicas: float) -> int:
    """The fewest replicas that are not fewer than `replicas`; 3.0000000001 is 3."""
    return ceil(replicas - EPSILON)


@dataclass(frozen=True, slots=True)
class PerReplica:
    """What one replica has or should have: requests in flight, share of KV cache in use, milliseconds."""

    value: float

    def times(self, replicas: float) -> Total:
        return Total(self.value * replicas)

    def against(self, target: PerReplica) -> Ratio:
        return Ratio(self.value / target.value)


@dataclass(frozen=True, slots=True)
class Total:
    """The sum of it over replicas."""

    value: float

    def each(self, replicas: int) -> PerReplica:
        """The mean; `replicas` at least 1."""
        return PerReplica(self.value / replicas)

    def replicas(self, target: PerReplica) -> float:
        """How many replicas would each have `target`."""
        return self.value / target.value

    def plus(self, other: Total) -> Total:
        return Total(self.value + other.value)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of what is to what should be; 1 is right."""

    value: float

    def of(self, replicas: int) -> float:
        """So many times as many replicas."""
        return self.value * replicas

    def within(self, tolerance: float) -> bool:
        """Whether it is at most `tolerance` away from 1."""
        return 1 - tolerance - EPSILON <= self.value <= 1 + tolerance + EPSILON
