"""What people and Argo CD read of adapters, and what pickers say is asked for."""

from typing import Any

import pytest

from aibrix_controllers.adapters.decide import Todo, Wrong
from aibrix_controllers.adapters.demand import SILENT_US, Demand
from aibrix_controllers.adapters.status import MOST, status
from tests.controllers.test_adapters_decide import adapter_set, item, row, service
from tests.platform.judge import judged

S = 1_000_000


def told(
    wrong: list[Wrong], ready: int = 2, items: int = 3, before: dict[str, Any] | None = None, wall: float = 0
) -> dict[str, Any]:
    wanted = service(*(item(f"a{number}") for number in range(items)))
    bad = {one.adapter for one in wrong}
    todo = Todo((), tuple(wrong), frozenset(name for name in wanted.items if name not in bad), {})
    one = adapter_set("support", 1, *(row(name) for name in wanted.items)) | ({"status": before} if before else {})
    return status(one, wanted, todo, ready=ready, wall=wall)


FAILED = Wrong("a1", "r1", "Unusable", "its rank is 64", passing=False)
PASSING = Wrong("a2", "r1", "Loading", "it is being loaded", passing=True)
ALONE = [Wrong(f"a{number}", "", "NoReplicas", "none", passing=True) for number in range(3)]


@pytest.mark.parametrize(
    ("wrong", "ready", "conditions", "counts", "health"),
    [
        ([], 2, "Ready", (3, 3, 0), "Healthy"),
        ([PASSING], 2, "Progressing", (3, 2, 0), "Progressing"),
        ([FAILED], 2, "Degraded", (3, 2, 1), "Degraded"),
        ([FAILED, PASSING], 2, "Progressing Degraded", (3, 1, 1), "Degraded"),
        (ALONE, 0, "", (3, 0, 0), "Healthy"),  # a service that sleeps is as it should be
    ],
)
def test_conditions_and_what_argo_cd_makes_of_them(
    wrong: list[Wrong], ready: int, conditions: str, counts: tuple[int, int, int], health: str
) -> None:
    found = told(wrong, ready)
    assert " ".join(one["type"] for one in found["conditions"] if one["status"] == "True") == conditions
    assert tuple(found["counts"].values()) == counts
    whole = adapter_set("support", 1) | {"kind": "AdapterSet", "status": found}
    assert judged(whole)[0] == health


def test_the_worst_is_told_first_and_the_rest_is_counted() -> None:
    wrong = [Wrong(f"a{number}", "r1", "NotFound", "x" * 5000, passing=False) for number in range(300)]
    found = told([PASSING, *wrong], items=300)
    assert len(found["exceptions"]) == MOST and found["exceptions"][0]["reason"] == "NotFound"
    assert len(found["exceptions"][0]["message"]) == 1024
    (degraded,) = [one for one in found["conditions"] if one["type"] == "Degraded"]
    assert degraded["message"].startswith("a0 and 299 more: xxx") and len(degraded["message"]) == 1024


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    first = told([], wall=1000)
    assert told([], before=first, wall=2000) == first, "nothing is written while nothing changes"
    changed = {one["type"]: one["lastTransitionTime"] for one in told([FAILED], before=first, wall=2000)["conditions"]}
    assert changed == {
        "Ready": "1970-01-01T00:33:20Z",
        "Progressing": "1970-01-01T00:16:40Z",
        "Degraded": "1970-01-01T00:33:20Z",
    }


# --- demand


def page(
    instance: str = "x", waiting: dict[str, int] | None = None, engine: str = "10.0.0.1:8000", **asked: int
) -> dict[str, Any]:
    flight = {engine: dict.fromkeys(asked, 1)}
    return {
        "instance": instance,
        "services": {"support": {"asked": asked, "waiting": waiting or {}, "in_flight": flight}},
    }


def test_counts_of_all_pickers_are_rates() -> None:
    demand = Demand(0)
    for second in range(120):
        demand.told("one", page(a=second), second * S)
        demand.told("two", page(a=2 * second), second * S)
    last, long = demand.rates("support", "a", 119 * S)
    assert last == pytest.approx(3.0, rel=0.06) and long == pytest.approx(3.0, rel=0.06)
    assert demand.rates("support", "b", 119 * S) == (0.0, 0.0)


def test_a_restarted_picker_counts_from_zero() -> None:
    demand = Demand(0)
    demand.told("one", page("x", a=1000), 100 * S)
    demand.told("one", page("x", a=1060), 101 * S)
    demand.told("one", page("y", a=6), 102 * S)
    last, _ = demand.rates("support", "a", 102 * S)
    assert last * 60 == pytest.approx(1066, abs=1), (
        "what a picker counted before it was known is new after the first half minute"
    )


def test_what_was_counted_before_our_own_start_is_old() -> None:
    demand = Demand(0)
    demand.told("one", page(a=100_000), 1 * S)
    assert demand.rates("support", "a", 1 * S)[0] <= 0.1


def test_silence_keeps_the_last_rates_and_is_said() -> None:
    demand = Demand(0)
    for second in range(60):
        demand.told("one", page(a=second), second * S)
    heard = 59 * S
    assert not demand.silent(heard + SILENT_US) and demand.silent(heard + SILENT_US + 1)
    late = demand.rates("support", "a", heard + 3600 * S)
    assert late[0] == pytest.approx(demand.rates("support", "a", heard + 2 * 3600 * S)[0]) and late[0] > 0.2


def test_who_waits_wakes_once_and_who_is_asked_is_in_use() -> None:
    demand = Demand(0)
    assert demand.told("one", page(waiting={"a": 1}), S)
    assert not demand.told("one", page(waiting={"a": 2}), S)
    assert demand.waiting("support") == {"a": S}
    demand.told("one", page(engine="[fd00::1]:8000", a=1), S)
    assert demand.in_use("support", "fd00::1") == {"a"} and demand.in_use("support", "10.0.0.1") == set()
    assert demand.waiting("support") == {}
    demand.gone("one")
    assert demand.in_use("support", "fd00::1") == set()


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"instance": "x"},
        {"instance": "x", "services": {"s": {}}},
        {"instance": "x", "services": {"s": {"asked": {"a": "x"}}}},
    ],
)
def test_a_page_that_is_none_is_said_and_changes_nothing(data: dict[str, Any]) -> None:
    demand = Demand(0)
    demand.told("one", page(a=3), S)
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        demand.told("one", data, 2 * S)
    assert demand.pickers["one"].asked == {("support", "a"): 3}


def test_names_are_bounded_and_forgotten() -> None:
    demand = Demand(0)
    demand.told("one", page(a=1), 100 * S)
    demand.told("one", page("y"), 2000 * S)
    demand.forget(2000 * S)
    assert not demand._series
