"""What happened in the last seconds and minutes: sliding sums and sliding maxima that cost the same however long the window.

Why they are here: rates, panic windows and down-windows decide how many replicas there are, in the cluster and in the
simulator, which drives days of them; so they are exact (integers, nothing drifts) and know no clock but the `now` of each
call, in microseconds. A `now` that lies before the last one counts as the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

SECOND = 1_000_000
"""Microseconds."""

Sums = tuple[int, int, int]


class Series:
    """Three columns of integers, summed over each of several windows of whole seconds: the running second and those before.

    `add` and `advance` cost O(windows) for each second that has passed, `sums` O(1).
    """

    __slots__ = ("_ring", "_second", "_sums")

    def __init__(self, *windows: int) -> None:
        """`windows` in seconds."""
        self._ring: list[Sums] = [(0, 0, 0)] * max(windows)
        self._sums: dict[int, Sums] = dict.fromkeys(windows, (0, 0, 0))
        self._second = 0

    def advance(self, now: int) -> bool:
        """Forget what has left the windows; whether a new second began."""
        second = now // SECOND
        if second <= self._second:
            return False
        ring, size = self._ring, len(self._ring)
        if second - self._second >= size:
            ring[:] = [(0, 0, 0)] * size
            self._sums = dict.fromkeys(self._sums, (0, 0, 0))
        else:
            for each in range(self._second + 1, second + 1):
                for window, (a, b, c) in self._sums.items():
                    x, y, z = ring[(each - window) % size]
                    self._sums[window] = (a - x, b - y, c - z)
                ring[each % size] = (0, 0, 0)
        self._second = second
        return True

    def add(self, now: int, a: int, b: int = 0, c: int = 0) -> None:
        self.advance(now)
        place = self._second % len(self._ring)
        x, y, z = self._ring[place]
        self._ring[place] = (x + a, y + b, z + c)
        for window, (x, y, z) in self._sums.items():
            self._sums[window] = (x + a, y + b, z + c)

    def sums(self, window: int) -> Sums:
        """Of a window, as of the last `add` or `advance`."""
        return self._sums[window]


@dataclass(frozen=True, slots=True)
class Peaks:
    """The largest of the values that were pushed within a window. It is a value: `push` makes the next one.

    Only values with no larger one after them are kept, so whole numbers of replicas need few entries.
    """

    entries: tuple[tuple[int, float], ...] = ()
    """(microseconds, value), values falling."""

    def push(self, now: int, value: float, window: int) -> Peaks:
        """With `value` at `now`, without what is `window` microseconds old or older."""
        entries = self.entries
        start, end = 0, len(entries)
        while start < end and entries[start][0] <= now - window:
            start += 1
        while end > start and entries[end - 1][1] <= value:
            end -= 1
        return Peaks((*entries[start:end], (now, value)))

    @property
    def top(self) -> float:
        """The largest; 0 of nothing."""
        return self.entries[0][1] if self.entries else 0.0

    def falling(self, now: int, by: float, after: int) -> float:
        """The largest if what is older than `after` microseconds has fallen by `by` a second since it was so old. The entries are
        enough for this: what has a larger one after it is overtaken by it at any fall."""
        return max((value - by * max(0, now - when - after) / SECOND for when, value in self.entries), default=0.0)


EMPTY = Peaks()
