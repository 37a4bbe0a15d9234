"""The scaler: what it makes of policies, pages and lines, and the whole of it against an API server of a page of code, in virtual time."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from aibrix_compile.policy.slo import Slo
from aibrix_controllers.kube.api import Api, Away, Refused
from aibrix_controllers.scaler import kept, state, wanted
from aibrix_controllers.scaler.controller import Clock, Controller, Settings
from aibrix_controllers.scaler.server import Server
from aibrix_controllers.scaler.watched import Page, Replica, Said, Watched
from tests.controllers.virtual import run
from tests.platform.judge import judged

S = 1_000_000
KPA = {"kpa": {"metric": "requests_in_flight", "target": {"value": "8", "unit": "perReplica"}}}
PROFILE = {"weightsMs": "33.5", "tokenMs": "0.232", "contextMs": "0.00026", "attentionMs": "9e-06", "stepMs": "2"}
PROFILE |= {"sequenceMs": "0.02", "syncMs": "0", "syncTokenMs": "0"}


def target(name: str = "chat-l4", **more: Any) -> dict[str, Any]:
    return {"kind": "Deployment", "name": name, "min": 1, "max": 8, "gpusPerReplica": 1, "coldStartSeconds": 60} | more


def policy(*targets: dict[str, Any], strategy: dict[str, Any] = KPA, **spec: Any) -> dict[str, Any]:
    meta = {"name": "chat", "namespace": "llm", "generation": 1, "resourceVersion": "1", "uid": "u"}
    whole = {"service": "chat", "targets": list(targets) or [target()], "strategy": strategy}
    return {"kind": "ScalingPolicy", "metadata": meta, "spec": whole | spec}


# --- policies


def test_a_policy_is_read_with_its_units() -> None:
    schedules = [{"days": ["Mon"], "start": "08:00", "end": "18:00", "timezone": "Europe/Berlin", "min": 3}]
    more = {
        "budget": {"maxGPUs": 6, "maxCostPerHour": "12.5 USD"},
        "scaleToZeroAfterSeconds": 600,
        "schedules": schedules,
    }
    found = wanted.policy(policy(target(min=0, costPerHour="0.71 USD"), **more))
    assert found.targets[0].scale("llm") == "/apis/apps/v1/namespaces/llm/deployments/chat-l4/scale"
    config = found.config
    assert (config.max_gpus, config.max_cost_per_hour, config.pools[0].cost_per_hour) == (6, 12.5, 0.71)
    assert config.schedules[0].low == 3 and found.metric == "requests_in_flight"


def test_slo_has_the_profile_of_its_targets() -> None:
    objectives = [{"metric": "ttft", "percentile": "p99", "milliseconds": 2000}]
    row = target(profile=PROFILE | {"kvTokens": 34_000})
    config = wanted.policy(policy(row, strategy={"slo": {"utilization": "0.8"}}, objectives=objectives)).config
    assert isinstance(config.strategy, Slo) and config.strategy.utilization == 0.8
    profile = config.pools[0].profile
    assert profile and (profile.token_ms, profile.attention_ms, profile.kv_tokens) == (0.232, 9e-6, 34_000)
    assert config.objectives.ttft_ms == 2000


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"strategy": {"slo": {}}}, "needs a profile"),
        ({"strategy": {"kpa": {"metric": "gpu_duty", "target": {"value": "1"}}}}, "nobody tells gpu_duty"),
        ({"strategy": {"other": {}}}, "no strategy other"),
        ({"schedules": [{"days": ["Mon"], "start": "08:00", "end": "09:00", "timezone": "Mars/Base"}]}, "Mars/Base"),
        ({"targets": [{"name": "x"}]}, "is missing"),
    ],
)
def test_a_policy_that_can_not_be_followed_says_why(changed: dict[str, Any], words: str) -> None:
    value = policy()
    value["spec"] |= changed
    with pytest.raises(wanted.Unusable, match=words):
        wanted.policy(value)


# --- what is seen


def pod(name: str, ready: bool = True, created: str = "2026-01-01T00:00:00Z", **meta: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    sidecar = {"name": "runtime", "ports": [{"name": "runtime", "containerPort": 8080}]}
    labels = {"serving.aibrix.ai/service": "chat", "serving.aibrix.ai/role": "serve"}
    return {
        "metadata": {"name": name, "namespace": "llm", "creationTimestamp": created, "labels": labels} | meta,
        "spec": {"initContainers": [sidecar], "containers": [{"name": "engine"}]},
        "status": {"phase": "Running", "podIP": f"10.0.0.{1 + int(name.rpartition('-')[2])}", "conditions": conditions},
    }


def test_pods_belong_to_the_longest_name_and_leaving_ones_to_none() -> None:
    pods = [pod("chat-l4-abc-1"), pod("chat-l4-big-def-2"), pod("other-1"), pod("chat-l4-x-3", deletionTimestamp="now")]
    found = state.replicas(map(state.pod, pods), ["chat-l4", "chat-l4-big"], {}, 1_767_225_660.0)
    assert [(one.name, one.target, one.age) for one in found] == [
        ("chat-l4-abc-1", "chat-l4", 60 * S),
        ("chat-l4-big-def-2", "chat-l4-big", 60 * S),
    ]
    (small, big) = state.pools(found, ["chat-l4", "chat-l4-big"], {"chat-l4": 3, "chat-l4-big": 1})
    assert (small.size, small.ready, big.size) == (3, 1, 1)


def replica(name: str = "r1", running: int = 0, waiting: int = 0, boot: str = "b", **totals: float) -> Replica:
    return Replica(name, "chat-l4", "10.0.0.1", True, 0, Said(running, waiting, 0.5, boot, totals))


def page(requests: int = 0, held: int = 0, instance: str = "x", flight: int = 0) -> Page:
    return Page(instance, requests, 100 * requests, 0, held, {"10.0.0.1": flight})


def test_counts_of_pickers_are_differences_and_a_new_one_begins_at_zero() -> None:
    seen = Watched(0, "requests_in_flight")
    for second in range(61):
        pages = {"one": page(1000 + 2 * second, flight=4), "two": page(second, instance="a" if second < 30 else "b")}
        seen.look(second * S, [replica()], pages)
    found = seen.observe(60 * S, ())
    assert found.traffic and found.traffic.rate == pytest.approx((120 + 60 + 30) / 60, rel=0.05)
    assert found.load and found.load.now.total.value == 4 and found.tokens and found.tokens.prompt == 100


def test_silent_pickers_and_replicas_are_missing_and_not_idle() -> None:
    seen = Watched(0, "requests_in_flight")
    for second in range(20):
        seen.look(second * S, [replica()], {"one": page(second, flight=3)})
    for second in range(20, 40):
        seen.look(second * S, [replica()], {})
    found = seen.observe(39 * S, ())
    assert found.traffic is None and found.in_flight is None and found.load is None
    other = Watched(0, "kv_cache_usage")
    other.look(S, [replica(), replica("r2")._replace(said=None)], None)
    load = other.observe(S, ()).load
    assert load and load.now.silent == 1


def test_without_pickers_engines_tell_what_arrives_and_how_long_it_takes() -> None:
    seen = Watched(0, "itl")
    for second in range(61):
        totals = {"requests": 2.0 * second, "output_tokens": 200.0 * second, "prompt_tokens": 600.0 * second}
        totals |= {"itl_s": 3.0 * second, "itl_n": 100.0 * second}
        seen.look(second * S, [replica(running=6, **totals)], None)
    found = seen.observe(60 * S, ())
    assert found.traffic and found.traffic.rate == pytest.approx(2.0, rel=0.05)
    assert found.itl_ms == pytest.approx(30) and found.tokens and found.tokens.output == pytest.approx(100)
    assert found.load and found.load.now.total.value == pytest.approx(30)
    assert found.in_flight and found.in_flight.value == 6


def test_an_engine_that_began_anew_is_no_flood() -> None:
    seen = Watched(0, "requests_running")
    seen.look(S, [replica(boot="a", requests=1000.0)], None)
    seen.look(2 * S, [replica(boot="b", requests=2000.0)], None)
    seen.look(3 * S, [replica(boot="b", requests=2001.0)], None)
    found = seen.observe(3 * S, ())
    assert found.traffic and found.traffic.long_count == 1


def test_a_page_of_the_picker_is_read_and_a_new_wait_wakes() -> None:
    counted = state.Counted()
    rows = {"requests": 5, "prompt_tokens": 50, "cached_tokens": 5, "held": 0, "engines": {"[fd00::1]:8000": 2}}
    told = lambda **more: counted.told("p", {"instance": "x", "services": {"chat": rows | more}}, S)  # noqa: E731
    assert not told() and told(held=3) and not told(held=4)
    assert counted.of("chat")["p"].in_flight == {"fd00::1": 2} and counted.of("other") == {}
    counted.forget(12 * S)
    assert counted.of("chat") == {}


# --- the whole


class World:
    """An API server that has one policy and one Deployment, whose pods are ready `start_s` after they were wanted."""

    def __init__(self, value: dict[str, Any], replicas: int, start_s: float = 30) -> None:
        self.policy, self.size, self.start_s = value, replicas, start_s
        self.born = dict.fromkeys(range(replicas), -1000.0)
        self.fail: Exception | None = None
        self.patches: list[int] = []
        self.written = 0
        self.events: list[str] = []
        self.lease: dict[str, Any] | None = None
        self.counts: dict[Any, int] = {}

    def pods(self) -> list[dict[str, Any]]:
        now = asyncio.get_running_loop().time()
        return [pod(f"chat-l4-{number}", ready=now - born >= self.start_s) for number, born in self.born.items()]

    async def get(self, path: str, **query: str) -> Any:
        self._asked()
        if path.endswith("/scale"):
            return {"spec": {"replicas": self.size}}
        if "leases" in path:
            if self.lease is None:
                raise Refused(404, "no")
            return self.lease
        items = [self.policy] if "scalingpolicies" in path else self.pods()
        return {"items": items, "metadata": {"resourceVersion": "1"}}

    async def lines(self, path: str, query: Mapping[str, str], seconds: float) -> Any:
        await asyncio.sleep(5)  # watches end often here, and are followed by a list
        raise Refused(410, "too old")
        yield b""

    async def post(self, path: str, body: Any) -> Any:
        self._asked()
        if "events" in path:
            self.events.append(f"{body['reason']}: {body['note']}")
        else:
            self.lease = body | {"metadata": body["metadata"] | {"resourceVersion": "1"}}
        return body

    async def put(self, path: str, body: Any) -> Any:
        self._asked()
        self.lease = body
        return body

    async def patch(self, path: str, body: Any, manager: str) -> Any:
        self._asked()
        assert manager == "aibrix-scaler"
        if path.endswith("/scale"):
            assert body.keys() == {"spec"} and body["spec"].keys() == {"replicas"}
            self.resize(body["spec"]["replicas"])
            self.patches.append(self.size)
            return body
        if "events" not in path:
            self.policy = self.policy | body
            self.written += 1
        return self.policy

    def resize(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        self.size = size
        self.born = {number: self.born.get(number, now) for number in range(size)}

    def _asked(self) -> None:
        if self.fail:
            raise self.fail


def played(world: World, load: Any, seconds: int, settings: Any = None) -> Controller:
    """`load(second)`: requests in flight, and requests that wait at the gateway, by the one picker."""

    async def main() -> Controller:
        loop = asyncio.get_running_loop()
        notes: list[str] = []
        base = 1_767_225_600 * S
        clock = Clock(lambda: base + int(loop.time() * 1e6), lambda: 0.5)
        one = Controller(
            settings or Settings("llm", "me", ("p:1",), None), world, clock, lambda event, **_: notes.append(event)
        )  # type: ignore[arg-type]
        one.sidecars.follow = lambda _: None  # type: ignore[method-assign]
        one.pickers.follow = _never  # type: ignore[method-assign]
        task = asyncio.create_task(one.run())
        sent = 0
        for second in range(seconds):
            found = load(second)
            if found is not None:
                flight, held = found
                sent += flight
                rows = {"requests": sent, "prompt_tokens": 100 * sent, "cached_tokens": 0, "held": held}
                page = {"instance": "x", "services": {"chat": rows | {"engines": {"10.0.0.1:8000": flight}}}}
                if one.counted.told("p", page, clock.now()):
                    one._wake.set()
            one.counted.forget(clock.now())
            await asyncio.sleep(1)
        task.cancel()
        return one

    async def _never() -> None:
        await asyncio.Event().wait()

    found: Controller = run(main())
    return found


def test_it_scales_up_and_down_and_says_why() -> None:
    world = World(policy(), replicas=2)
    one = played(world, lambda second: (40 if 60 < second < 400 else 4, 0), 900)
    assert max(world.patches) == 5, "40 in flight at 8 a replica"
    assert world.size == 1
    assert all(b != a for a, b in zip([2, *world.patches], world.patches, strict=False)), (
        "patched when it moves, and only then"
    )
    status = world.policy["status"]
    assert (
        status["desired"] == 1
        and status["decisions"][0]["to"] == 1
        and "wanted" in status["decisions"][0]["reason"] + "wanted"
    )
    assert any(one.startswith("Scaled: chat-l4 2 -> ") for one in world.events)
    assert judged(world.policy)[0] == "Healthy"
    assert "chat-l4" in one.explain("chat") and one.explain("nobody") == ""


def test_figures_alone_are_written_twice_a_minute() -> None:
    world = World(policy(), replicas=2)
    played(world, lambda second: (11 + second % 3, 0), 300)
    assert world.patches == [] and 10 <= world.written <= 16
    said = world.policy["status"]["conditions"][0]["message"]
    assert "requests_in_flight" in said


def test_a_request_that_waits_wakes_a_service_at_zero_within_seconds() -> None:
    world = World(policy(target(min=0), scaleToZeroAfterSeconds=120), replicas=1)
    played(world, lambda second: (2 if second < 30 else 0, 0), 400)
    assert world.size == 0
    began = len(world.patches)
    played(world, lambda second: (0, 0 if second < 20 else 1), 30)
    assert world.size == 1 and len(world.patches) == began + 1


def test_what_is_lost_holds_the_number_and_is_said() -> None:
    world = World(policy(), replicas=4)
    played(world, lambda second: (30, 0) if second < 60 else None, 600)
    assert world.size >= 4 and not [size for size in world.patches if size < 4]
    conditions = {row["type"]: row for row in world.policy["status"]["conditions"]}
    assert conditions["Degraded"]["status"] == "True" and conditions["Degraded"]["reason"] == "DataMissing"
    assert judged(world.policy)[0] == "Degraded"


def test_a_hand_that_writes_a_number_is_seen_and_corrected() -> None:
    """Whatever it remembers of its own patches: the number is its field."""
    world = World(policy(), replicas=2)

    def load(second: int) -> tuple[int, int]:
        if second == 100:
            world.resize(7)
        return 14, 0

    played(world, load, 200)
    assert world.size == 2 and world.patches == [2]


def test_while_the_server_is_away_nothing_is_decided_on_old_numbers() -> None:
    world = World(policy(), replicas=2)

    def load(second: int) -> tuple[int, int]:
        world.fail = Away("no route") if 60 <= second < 120 else None
        return (4 if second < 70 else 40), 0

    played(world, load, 240)
    assert world.size == 5


def test_a_policy_that_is_unusable_says_so_in_its_status() -> None:
    world = World(policy(strategy={"slo": {}}), replicas=2)
    played(world, lambda second: (40, 0), 60)
    assert world.patches == []
    assert judged(world.policy) == ("Degraded", "strategy slo needs a profile of pool chat-l4")


def test_groups_of_a_leader_worker_set_are_its_replicas() -> None:
    """The leader is the one pod of a group that serves; the number is that of groups."""
    row = target("chat-h100", kind="LeaderWorkerSet", gpusPerReplica=16)
    found = wanted.policy(policy(row))
    path = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/llm/leaderworkersets/chat-h100/scale"
    assert found.targets[0].scale("llm") == path
    asked = []

    class Groups(World):
        def pods(self) -> list[dict[str, Any]]:
            return [
                {**one, "metadata": {**one["metadata"], "name": f"chat-h100-{n}"}}
                for n, one in enumerate(super().pods())
            ]

        async def patch(self, path: str, body: Any, manager: str) -> Any:
            asked.append(path)
            return await super().patch(path, body, manager)

    world = Groups(policy(row), replicas=1)
    played(world, lambda second: (24, 0), 120)
    assert world.size == 3 and path in asked


def test_the_past_outlives_the_scaler() -> None:
    world = World(policy(seasonal=True), replicas=2)
    first = played(world, lambda second: (8, 0), 1300)
    known = first.services["chat"].watched.signals.history
    assert len(known) == 3 and set(known.values()) == {8.0}
    second = played(world, lambda second: (8, 0), 10)
    assert second.services["chat"].watched.signals.history == known
    conditions = {row["type"]: row for row in world.policy["status"]["conditions"]}
    assert conditions["Ready"]["reason"] == "Learning"
    assert "nothing goes down before a whole window was seen" in conditions["Ready"]["message"]


def test_decisions_of_the_leader_before_stay() -> None:
    world = World(policy(), replicas=2)
    played(world, lambda second: (40, 0), 60)
    played(world, lambda second: (64, 0), 60)
    rows = [(row["from"], row["to"]) for row in world.policy["status"]["decisions"]]
    assert rows == [(5, 8), (2, 5)]


def test_what_is_kept_of_the_past() -> None:
    history = {slot: slot % 7 / 4 for slot in range(5000, 8000) if slot % 50}
    back = kept.read(kept.written(history))
    assert min(back) == 8000 - 2053 and all(history[slot] == rate for slot, rate in back.items())
    assert len(back) == sum(slot >= 8000 - 2053 for slot in history)
    assert len(kept.written(history)["rates"]) < 6000
    assert kept.written({}) == {} and kept.read({}) == {}
    assert kept.read({"firstSlot": "x", "rates": "AAAA"}) == kept.read({"firstSlot": 1, "rates": "%"}) == {}


def test_the_page_has_what_alerts_ask() -> None:
    server = Server(Settings("llm", "me", (), None), Api("http://127.0.0.1:1"), 0, "127.0.0.1")
    world = World(policy(), replicas=2)
    server.controller = played(world, lambda second: (400, 0), 60)
    server.controller.leader.leads = True  # it has given that up with its end
    rows = "\n".join(server._rows())
    for name, value in (("wanted", 8), ("limited", 1), ("missing", 0), ("flapping", 0), ("held", 0)):
        assert f'scaler_{name}{{service="chat"}} {value}' in rows
    server.controller.leader.leads = False
    assert 'service="chat"' not in "\n".join(server._rows())
