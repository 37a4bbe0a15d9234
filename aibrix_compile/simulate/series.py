"""How a run went, second by second, in a bounded number of rows: when they are too many, each two neighbours become one.

So a run of an hour and one of a week have charts of the same size, and nobody has to know the length of a trace before it ends.
"""

from __future__ import annotations

from collections.abc import Sequence

ROWS = 480


class Series:
    """Means of equally long stretches. `add` is called at a steady pace; a row holds sums of `width` calls."""

    def __init__(self, columns: Sequence[str], pace_us: int) -> None:
        self.columns, self._pace = tuple(columns), pace_us
        self.width = 1
        """Calls that a row stands for; the last one may have fewer."""
        self._rows: list[list[float]] = []
        self._calls = 0

    def add(self, values: Sequence[float]) -> None:
        """One value for each column."""
        if self._calls % self.width:
            row = self._rows[-1]
            for index, value in enumerate(values):
                row[index] += value
        else:
            if len(self._rows) == 2 * ROWS:
                pairs = zip(self._rows[::2], self._rows[1::2], strict=True)
                self._rows = [[one + two for one, two in zip(a, b, strict=True)] for a, b in pairs]
                self.width *= 2
            self._rows.append(list(values))
        self._calls += 1

    @property
    def edges_us(self) -> list[int]:
        """Where rows begin, and where the last one ends."""
        step = self.width * self._pace
        return [index * step for index in range(len(self._rows) + 1)]

    def column(self, name: str) -> list[float]:
        """Means, a value for each row."""
        index, last = self.columns.index(name), len(self._rows) - 1
        rest = self._calls - last * self.width
        return [row[index] / (self.width if number < last else rest) for number, row in enumerate(self._rows)]

    def mean(self, name: str) -> float:
        """Over the whole run."""
        index = self.columns.index(name)
        return sum(row[index] for row in self._rows) / self._calls if self._calls else 0.0
