"""Sliding sums and maxima against the plain sum and maximum of what lies in the window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.policy.windows import SECOND, Peaks, Series

steps = st.lists(st.tuples(st.integers(0, 40 * SECOND), st.integers(-5, 50)), max_size=60)


@given(steps, st.integers(0, 10**4), st.integers(0, 40 * SECOND))
def test_sums_are_those_of_the_last_whole_seconds(samples: list[tuple[int, int]], begin: int, rest: int) -> None:
    series, now, seen = Series(6, 60, 7), begin * SECOND, []
    for wait, value in samples:
        now += wait
        series.add(now, value, 2 * value, 1)
        seen.append((now // SECOND, value))
    now += rest
    series.advance(now)
    for window in (6, 7, 60):
        found = [value for second, value in seen if second > now // SECOND - window]
        assert series.sums(window) == (sum(found), 2 * sum(found), len(found))


def test_a_second_is_in_the_window_until_its_end() -> None:
    series = Series(2)
    series.add(10 * SECOND, 5)
    series.advance(12 * SECOND - 1)
    assert series.sums(2)[0] == 5
    series.advance(12 * SECOND)
    assert series.sums(2)[0] == 0


def test_a_clock_that_steps_back_is_the_last_second() -> None:
    series = Series(2)
    series.add(10 * SECOND, 5)
    assert not series.advance(3 * SECOND)
    series.add(3 * SECOND, 1)
    assert series.sums(2)[0] == 6


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), min_size=1, max_size=80), st.integers(1, 60))
def test_the_top_is_the_largest_of_the_window(samples: list[tuple[int, int]], window: int) -> None:
    peaks, now, seen = Peaks(), 0, []
    for wait, value in samples:
        now += wait
        peaks = peaks.push(now, value, window)
        seen.append((now, value))
        assert peaks.top == max(each for when, each in seen if when > now - window)
        assert len(peaks.entries) <= 10  # one for each value at most


def test_a_push_leaves_the_old_value_alone() -> None:
    first = Peaks().push(0, 3, 10)
    second = first.push(1, 5, 10)
    assert (first.top, second.top, Peaks().top) == (3, 5, 0)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), min_size=1, max_size=80),
    st.floats(0, 2),
    st.integers(0, 60),
)
def test_the_largest_of_what_has_fallen_since(samples: list[tuple[int, int]], by: float, after: int) -> None:
    peaks, now, seen = Peaks(), 0, []
    for wait, value in samples:
        now += wait * SECOND
        peaks = peaks.push(now, value, 60 * SECOND)
        seen.append((now, value))
        fallen = [v - by * max(0.0, (now - t) / SECOND - after) for t, v in seen if t > now - 60 * SECOND]
        assert peaks.falling(now, by, after * SECOND) == pytest.approx(max(0.0, max(fallen)))
