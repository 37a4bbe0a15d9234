"""Kubernetes' algorithm, case by case: tolerance, silent and starting replicas, stabilisation, rates."""

import pytest

from aibrix_compile.policy.hpa import Hpa, Rate, recommended, remember, wish
from aibrix_compile.policy.observation import Load, Memory, Reading
from aibrix_compile.policy.quantities import PerReplica, Total
from aibrix_compile.policy.windows import SECOND

CONFIG = Hpa("requests_in_flight", PerReplica(12))


@pytest.mark.parametrize(
    ("total", "silent", "ready", "size", "number"),
    [
        (72, 0, 4, 4, 6),  # 18 each, 1.5 times as many
        (52.8, 0, 4, 4, 4),  # 10 % above is within
        (52.9, 0, 4, 4, 5),
        (43.2, 0, 4, 4, 4),  # 10 % below too
        (36, 0, 4, 4, 3),
        (0, 0, 4, 4, 0),
        # two still start: idle on the way up, 60 / 4 = 15 each of four
        (60, 0, 2, 4, 5),
        (32, 0, 2, 4, 4),  # 16 each is too much, 8 of four is too little: nothing happens
        (6, 0, 2, 4, 1),  # down: they do not count
        # silent: idle on the way up, right on the way down
        (60, 1, 4, 4, 5),
        (45, 1, 4, 4, 4),  # 15 of three, 11.25 of four: the direction turned
        (9, 1, 4, 4, 2),  # 9 + 12 = 21 is 1.75 replicas' worth
        (30, 1, 4, 4, 4),  # 42 is within 10 % of 48? 0.875 of 4 is 3.5: four
        (34, 1, 4, 4, 4),
        (100, 2, 3, 5, 9),  # one is known: 100 / 5 = 20 each of five
        (36.0, 1, 4, 4, 4),  # right as far as one sees
        (0, 4, 4, 4, None),
        (0, 0, 0, 4, None),
    ],
)
def test_recommended(total: float, silent: int, ready: int, size: int, number: int | None) -> None:
    assert recommended(CONFIG, Reading(Total(total), silent), ready, size) == number


def load(total: float, silent: int = 0) -> Load:
    one = Reading(Total(total), silent)
    return Load(one, one, one, one)


class Plant:
    """One pool under Hpa; replicas serve at once."""

    def __init__(self, config: Hpa, size: int) -> None:
        self.config, self.size, self.memory, self.now = config, size, Memory(), 0

    def look(self, total: float, seconds: int = 15) -> int:
        found = wish(self.config, load(total), self.size, self.size, self.memory, self.now)
        assert found.least == found.most
        value = int(found.least)
        self.memory = remember(self.config, found.memory, self.now, value - self.size)
        self.size, self.now = value, self.now + seconds * SECOND
        return value


def test_up_by_100_percent_or_4_pods_in_15_s() -> None:
    plant = Plant(CONFIG, 1)
    assert [plant.look(1200) for _ in range(5)] == [5, 10, 20, 40, 80]
    plant = Plant(CONFIG, 1)
    # a look every 5 s: within 15 s the start of the period is what counts
    assert [plant.look(1200, 5) for _ in range(6)] == [5, 5, 5, 10, 10, 10]


def test_down_to_the_largest_recommendation_of_300_s() -> None:
    plant = Plant(CONFIG, 10)
    sizes = [plant.look(60) for _ in range(21)]
    assert sizes == [10] * 20 + [5]  # the window is seeded by the size at the beginning
    plant = Plant(CONFIG, 10)
    for second in range(0, 600, 15):
        assert plant.look(96 if second == 300 else 60) == (10 if second < 300 else 8)
    assert plant.look(60) == 5


def test_rates_as_our_objects_have_them() -> None:
    config = Hpa(
        "m", PerReplica(12), up=(Rate("Percent", 100, 60),), down=(Rate("Pods", 1, 60),), down_window_seconds=0
    )
    plant = Plant(config, 2)
    assert [plant.look(1200) for _ in range(6)] == [4, 4, 4, 4, 8, 8]
    plant = Plant(config, 8)
    assert [plant.look(12) for _ in range(6)] == [7, 7, 7, 7, 6, 6]


def test_what_limited_it() -> None:
    memory = Memory()
    assert wish(CONFIG, load(120), 1, 1, memory, 0).limited_by == ("rate",)
    assert wish(CONFIG, load(12), 4, 4, memory, 0).limited_by == ("downWindow",)
    lost = wish(CONFIG, load(0, 4), 4, 4, memory, 0)
    assert (lost.least, lost.limited_by) == (0, ("missing",)) and lost.most > 1000
    assert wish(CONFIG, None, 4, 4, memory, 0).limited_by == ("missing",)
