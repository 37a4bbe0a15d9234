"""Slopes that come true, slopes that do not, and none so far."""

import math

import pytest

from aibrix_compile.policy.trust import Trust
from aibrix_compile.policy.windows import SECOND


def after(hours: float, rate: object, slope: object) -> float:
    trust = Trust(120)
    for second in range(0, round(hours * 3600), 2):
        trust.saw(second * SECOND, rate(second), slope(second))  # type: ignore[operator]
    return trust.share


def test_nothing_seen_is_believed() -> None:
    assert after(0, None, None) == 1.0
    assert after(1, lambda t: 5.0, lambda t: 0.0) == 1.0


@pytest.mark.parametrize("slope", [0.01, -0.01])
def test_a_ramp_goes_on(slope: float) -> None:
    assert after(2, lambda t: 100 + slope * t, lambda t: slope) == pytest.approx(1.0)


def test_noise_does_not() -> None:
    """What rose falls back: a minute and a half up, as long down."""
    share = after(4, lambda t: 10 + 5 * math.sin(t / 30), lambda t: 5 / 30 * math.cos(t / 30))
    assert share < 0.3
    first = after(0.2, lambda t: 10 + 5 * math.sin(t / 30), lambda t: 5 / 30 * math.cos(t / 30))
    assert first > 0.5  # twelve minutes do not settle it


def test_half_of_it() -> None:
    assert after(5, lambda t: 100 + 0.005 * t, lambda t: 0.01) == pytest.approx(0.5 + 0.5 * 120 / 481, abs=0.01)


def test_an_hour_ago_is_forgotten() -> None:
    def rate(t: float) -> float:
        return 100 + 0.01 * min(t, 7200)

    assert after(2, rate, lambda t: 0.01) == pytest.approx(1.0)
    assert after(6, rate, lambda t: 0.01) < 0.3  # the slope is claimed, and nothing grows any more
