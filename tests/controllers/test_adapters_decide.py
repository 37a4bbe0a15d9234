"""What the adapter controller does: tables of situations, and a small world in which its acts come true, or fail."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from aibrix_compile.policy import placement
from aibrix_controllers.adapters.controller import GRACE_US
from aibrix_controllers.adapters.decide import AT_ONCE, Failure, Todo, Verb, View, decide
from aibrix_controllers.adapters.wanted import Item, Service, services
from aibrix_controllers.observe.replicas import Held, Line, Replica, line, replica

CONFIG = placement.Config(2.0)
OLD, NEW = "sha256:old", "sha256:new"


def item(
    name: str, least: int = 1, *, everywhere: bool = False, digest: str = OLD, priority: int = 0, rank: int = 8
) -> Item:
    return Item(name, "support", f"s3://adapters/{name}", digest, rank, everywhere, least, priority, "", "")


def service(*items: Item, loaded: int = 2, cached: int = 4, rank: int = 16) -> Service:
    return Service("support", {}, loaded, cached, rank, {one.name: one for one in items}, ("support",))


def pod(
    name: str, held: str = "", *, ready: bool = True, draining: bool = False, silent: bool = False, digest: str = OLD
) -> Replica:
    adapters = {one: Held(digest, f"s3://adapters/{one}", 8) for one in held.split()}
    said = None if silent else Line(ready, "", "i-0", 0, adapters)
    return Replica(name, "support", f"10.0.0.{name[1:]}", f"10.0.0.{name[1:]}:8080", ready, draining, said)


def shown(todo: Todo) -> str:
    signs = {"load": "+", "unload": "-", "replace": "~"}
    return " ".join(f"{signs[one.verb]}{one.adapter}@{one.replica}" for one in todo.acts)


A, B = item("a"), item("b")
BUSY: dict[str, Any] = {"in_use": {"r1": frozenset({"b"})}}


@pytest.mark.parametrize(
    ("items", "pods", "more", "acts"),
    [
        ([A], [pod("r1")], {}, "+a@r1"),
        ([A], [pod("r1", "a")], {}, ""),
        ([item("a", everywhere=True)], [pod("r1", "a"), pod("r2")], {}, "+a@r2"),
        ([A], [pod("r1", ready=False)], {}, ""),
        ([A], [pod("r1", draining=True), pod("r2")], {}, "+a@r2"),
        ([A], [pod("r1", silent=True)], {}, ""),
        ([], [pod("r1", "b")], {}, ""),
        ([], [pod("r1", "b")], {"gone": {"b": False}}, ""),
        ([], [pod("r1", "b")], {"gone": {"b": True}}, "-b@r1"),
        ([], [pod("r1", "b")], {"gone": {"b": True}, "whole": False}, ""),
        ([], [pod("r1", "b")], {"gone": {"b": True}, **BUSY}, ""),
        ([item("a", 0)], [pod("r1")], {}, ""),
        ([item("a", 0)], [pod("r1")], {"rates": {"a": (0.1, 0.0)}}, "+a@r1"),
        ([item("a", 0)], [pod("r1"), pod("r2")], {"rates": {"a": (3.0, 3.0)}}, "+a@r2 +a@r1"),
        ([item(x) for x in "abcde"], [pod("r1")], {}, "+a@r1 +b@r1"),
        ([item(x) for x in "abcde"], [pod("r1", "a b c d")], {}, ""),
        ([A, B], [pod("r1")], {"going": {("a", "r1"): "load"}}, "+b@r1"),
        ([A, B], [pod("r1")], {"going": {("a", "r1"): "load", ("b", "r1"): "load"}}, ""),
        ([item("a", digest=NEW)], [pod("r1", "a"), pod("r2", "a")], {}, "~a@r1"),
        ([item("a", 2, digest=NEW)], [pod("r1", "a"), pod("r2", "a")], {}, "~a@r1"),
        ([item("a", 2, digest=NEW)], [pod("r1", "a"), pod("r2", "a")], {"going": {("a", "r1"): "replace"}}, ""),
        ([item("a", 2, digest="")], [pod("r1", "a", digest=NEW), pod("r2", "a")], {}, ""),
    ],
)
def test_what_is_begun(items: list[Item], pods: list[Replica], more: dict[str, Any], acts: str) -> None:
    found = decide(View(service(*items), pods, **more), CONFIG, 0)
    if items and items[0].least == 1 and items[0].digest == NEW:  # one copy suffices of two: which goes is placement's
        assert found.acts[0].verb in ("unload", "replace")
    else:
        assert shown(found) == acts


def test_who_has_waited_longest_is_first() -> None:
    """However many others come meanwhile; of those that nobody waits for the order is placement's."""
    items = [item(x, 0) for x in "abcdef"]
    rates = {one.name: (1.0, 0.0) for one in items}
    view = View(service(*items, cached=6), [pod("r1")], rates, waiting={"f": 1, "d": 2, "e": 3})
    assert shown(decide(view, CONFIG, 9)) == "+f@r1 +d@r1"
    assert shown(decide(replace(view, waiting={}), CONFIG, 9)) == "+a@r1 +b@r1"


def failure(code: str = "unusable", until: int = 10, **more: Any) -> Failure:
    return Failure(code, "its rank is 64", 1, until, more.get("item", A))


def test_a_load_that_failed_rests_and_another_item_does_not() -> None:
    view = View(service(A), [pod("r1")], failures={("a", "r1"): failure()})
    assert shown(decide(view, CONFIG, 9)) == "" and shown(decide(view, CONFIG, 10)) == "+a@r1"
    changed = replace(view, service=service(item("a", digest=NEW)))
    assert shown(decide(changed, CONFIG, 0)) == "+a@r1", "it was mended in Git: no waiting"


def test_a_roll_stops_where_it_failed_and_says_so() -> None:
    fresh = item("a", 2, digest=NEW)
    view = View(service(fresh), [pod("r1", "a"), pod("r2", "a")], failures={("a", "r1"): failure(item=fresh)})
    found = decide(view, CONFIG, 0)
    assert found.acts == ()
    assert [(one.replica, one.reason, one.passing) for one in found.wrong] == [
        ("r1", "Unusable", False),
        ("r2", "RolloutStopped", False),
    ]


@pytest.mark.parametrize(
    ("items", "pods", "more", "wrong"),
    [
        ([A], [pod("r1", "a")], {}, []),
        ([A], [pod("r1")], {}, [("a", "r1", "Waiting", True)]),
        ([A], [pod("r1")], {"going": {("a", "r1"): "load"}}, [("a", "r1", "Loading", True)]),
        ([A], [pod("r1")], {"failures": {("a", "r1"): failure("not_found")}}, [("a", "r1", "NotFound", False)]),
        ([A], [], {}, [("a", "", "NoReplicas", True)]),
        ([item("a", 3)], [pod("r1", "a"), pod("r2", "a")], {}, [("a", "", "NoRoom", False)]),
        ([item("a", rank=32)], [pod("r1")], {}, [("a", "", "NoRoom", False)]),
        ([item("a", 0)], [pod("r1")], {}, []),
    ],
)
def test_what_is_wrong(
    items: list[Item], pods: list[Replica], more: dict[str, Any], wrong: list[tuple[Any, ...]]
) -> None:
    found = decide(View(service(*items), pods, **more), CONFIG, 0)
    assert [(one.adapter, one.replica, one.reason, one.passing) for one in found.wrong] == wrong
    assert (found.settled == {one.name for one in items}) is (not wrong)


class World:
    """Replicas with places, in which acts take steps to come true. `luck` decides which of them fail."""

    def __init__(self, seed: int, wanted: Service) -> None:
        self.random, self.service = Random(seed), wanted
        self.held: dict[str, dict[str, Held]] = {f"r{number}": {} for number in range(1, 5)}
        self.users: dict[str, set[str]] = {name: set() for name in self.held}
        self.going: dict[tuple[str, str], tuple[Verb, int]] = {}
        self.failures: dict[tuple[str, str], Failure] = {}
        self.bad: set[str] = set()
        self.now = 0
        self.missed: dict[str, int] = {}
        self.rates: dict[str, tuple[float, float]] = {}
        self.acts = 0

    def view(self) -> View:
        there = {name for held in self.held.values() for name in held}
        self.missed = {name: self.missed.get(name, self.now) for name in there - self.service.items.keys()}
        pods = [
            Replica(name, "support", name, f"{name}:8080", True, False, Line(True, "", "i", 0, dict(held)))
            for name, held in self.held.items()
        ]
        return View(
            self.service,
            pods,
            self.rates,
            {name: frozenset(users) for name, users in self.users.items()},
            {copy: verb for copy, (verb, _) in self.going.items()},
            self.failures,
            {name: self.now - since >= GRACE_US for name, since in self.missed.items()},
        )

    def step(self) -> Todo:
        self.now += 1_000_000
        for copy, (verb, left) in list(self.going.items()):
            if left:
                self.going[copy] = verb, left - 1
            else:
                del self.going[copy]
                self._end(copy, verb)
        todo = decide(self.view(), CONFIG, self.now)
        for act in todo.acts:
            copy = act.adapter, act.replica
            assert copy not in self.going, "nothing is begun twice"
            if act.verb != "load":
                assert act.verb == "replace" or act.adapter not in self.users[act.replica], "in use, and to be unloaded"
            if act.verb == "replace":
                others = [verb for (name, _), (verb, _) in self.going.items() if name == act.adapter]
                assert "replace" not in others, "replica by replica"
            self.going[copy] = act.verb, self.random.randrange(3)
            self.acts += 1
        for name, held in self.held.items():
            taken = held.keys() | {
                one for (one, where), (verb, _) in self.going.items() if where == name and verb == "load"
            }
            assert len(taken) <= self.service.max_cached
            assert sum(where == name for _, where in self.going) <= AT_ONCE
        return todo

    def _end(self, copy: tuple[str, str], verb: Verb) -> None:
        name, where = copy
        wanted = self.service.items.get(name)
        if verb == "unload":
            self.held[where].pop(name, None)
        elif wanted is None or name in self.bad or self.random.random() < 0.2:
            self.failures[copy] = Failure("source_failed", "luck", 1, self.now + 3_000_000, wanted)
        else:
            self.failures.pop(copy, None)
            self.held[where][name] = Held(wanted.digest, wanted.uri, wanted.rank)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_it_comes_to_what_git_wants(seed: int) -> None:
    random = Random(seed)
    names = [f"a{number}" for number in range(10)]
    items = [item(name, random.randrange(3), priority=random.randrange(2)) for name in names[: random.randrange(3, 8)]]
    world = World(seed, service(*items))
    for _ in range(60):
        match random.randrange(8):
            case 0:  # an engine restarts and has nothing
                world.held[random.choice(list(world.held))].clear()
            case 1:
                chosen = random.choice(list(world.held))
                world.users[chosen] = set(random.sample(sorted(world.held[chosen]), min(1, len(world.held[chosen]))))
            case 2:
                world.rates = {name: (random.choice((0.0, 0.5, 5.0)), 0.5) for name in random.sample(names, 3)}
            case 3:  # Git
                fresh = random.sample(names, random.randrange(3, 8))
                digests = {name: random.choice((OLD, NEW)) for name in fresh}
                world.service = service(*(item(name, random.randrange(3), digest=digests[name]) for name in fresh))
        world.users = {name: users & world.held[name].keys() for name, users in world.users.items()}
        world.step()
    world.users = {name: set() for name in world.held}
    world.rates = {}
    for _ in range(150):
        todo = world.step()
    assert todo.acts == () and not world.going
    for name, one in world.service.items.items():
        copies = [held[name] for held in world.held.values() if name in held]
        assert len(copies) >= one.least or any(wrong.adapter == name for wrong in todo.wrong)
        assert all(one.is_it(held.digest, held.uri) for held in copies)
    assert not {name for held in world.held.values() for name in held} - world.service.items.keys()
    before = world.acts
    for _ in range(20):
        world.step()
    assert world.acts == before, "it rests"


# --- what is read


def adapter_set(name: str, version: int, *items: dict[str, Any], **spec: Any) -> dict[str, Any]:
    limits = {"maxLoaded": 2, "maxCached": 4, "maxRank": 16}
    whole = {"service": "support", "selector": {"matchLabels": {"x": "y"}}, "limits": limits, "items": list(items)}
    return {"metadata": {"name": name, "resourceVersion": str(version), "generation": 1}, "spec": whole | spec}


def row(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "uri": f"s3://adapters/{name}", "rank": 8} | more


def test_sets_of_a_service_are_one_and_the_newest_has_the_last_word() -> None:
    sets = [
        adapter_set("two", 12, row("a", uri="https://HOST/a/"), row("b", replicas={"all": True})),
        adapter_set("one", 9, row("a"), row("c", replicas={"min": 2}, credentials={"secret": "s", "key": "k"})),
        adapter_set("gone", 99, row("z")) | {"metadata": {"name": "gone", "deletionTimestamp": "now"}},
    ]
    found = services(sets)["support"]
    assert sorted(found.items) == ["a", "b", "c"] and found.sets == ("one", "two")
    a, c = found.items["a"], found.items["c"]
    assert (a.home, a.uri) == ("two", "https://host/a"), "as a sidecar announces it"
    assert a.is_it("", "https://host/a") and not a.is_it("", "s3://adapters/a")
    assert found.items["b"].everywhere and c.least == 2
    assert c.request(30) == {
        "lora_name": "c",
        "lora_path": "s3://adapters/c",
        "drain_s": 30,
        "credentials": {"secret": "s", "key": "k"},
    }


def kubernetes_pod(**status: Any) -> dict[str, Any]:
    sidecar = {"name": "runtime", "ports": [{"name": "runtime", "containerPort": 8081}]}
    meta = {"name": "p", "labels": {"serving.aibrix.ai/service": "support"}}
    ready = [{"type": "Ready", "status": "True"}]
    spec = {"initContainers": [sidecar], "containers": [{"name": "engine"}]}
    return {"metadata": meta, "spec": spec, "status": {"phase": "Running", "conditions": ready} | status}


def test_pods_as_replicas() -> None:
    assert replica(kubernetes_pod()) is None, "it has no address yet"
    assert replica(kubernetes_pod(podIP="10.0.0.1", phase="Failed")) is None
    found = replica(kubernetes_pod(podIP="fd00::1"))
    assert found and found.runtime == "[fd00::1]:8081" and found.ready and not found.serves


def test_lines_keep_the_adapters_of_the_one_before() -> None:
    data = {"engine": "ready", "draining": False, "incarnation": "i", "running": 1, "waiting": 2}
    first = line(data | {"adapters": [{"name": "a", "digest": OLD, "rank": 8, "uri": "u"}]}, None)
    assert line(data, first).adapters == first.adapters == {"a": Held(OLD, "u", 8)}
    assert line(data, first).in_flight == 3
    assert not line(data | {"draining": True}, first).ready
    with pytest.raises(KeyError):
        line({}, None)
