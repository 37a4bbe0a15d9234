"""Example 06, a replica over two nodes, under the real controller of LeaderWorkerSet: its webhooks set what our arguments
refer to ($(LWS_LEADER_ADDRESS), $(LWS_WORKER_INDEX)), its restart policy ends the whole group with one of its pods.

The controller runs as a pod from its own manifests; the engines are the mock, whose leader serves once all nodes have come.
"""

import json
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from aibrix_compile.ownership import GIT, SCALER
from aibrix_controllers.scaler.wanted import Target
from tests.cluster import assets
from tests.cluster.api import Api, Refused, ready, wait
from tests.cluster.cluster import Cluster
from tests.cluster.gitops import compiled, drift, sync
from tests.cluster.test_acceptance import provided
from tests.cluster.watch import Object
from tests.golden.trees import EXAMPLES
from tests.toolchain import Missing, absent

POOL = "serving.aibrix.ai/service=deepseek,serving.aibrix.ai/pool=h100"
LEADERS = f"{POOL},serving.aibrix.ai/role=serve"


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[Api]:
    """With LeaderWorkerSet's kind, webhooks and controller."""
    try:
        source = assets.leader_worker_set()
    except Missing as missing:
        absent(str(missing))
    kubectl = assets.control_plane(cluster.minor)["kubectl"]
    done = subprocess.run([kubectl, "kustomize", source / "config/default"], capture_output=True, text=True, check=True)
    values = [one for one in yaml.safe_load_all(done.stdout) if one]
    for value in values:
        if value["kind"] == "Deployment":
            value["spec"]["replicas"] = 1
    sync(cluster.api, values)
    wait("the controller", lambda: ready(cluster.api.list("Pod", "lws-system")))
    yield cluster.api
    for value in reversed(values):
        if value["kind"] != "CustomResourceDefinition":
            cluster.api.delete(value)


@pytest.fixture(scope="module")
def objects(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Object]]:
    """Applied, on nodes that run what they are told."""
    found = compiled(EXAMPLES / "06-multi-node", tmp_path_factory.mktemp("group"))
    (group,) = (one for one in found if one["kind"] == "LeaderWorkerSet")
    with provided(api, found, hollow=False):
        wait("the webhook answers", lambda: _admitted(api, group), 30)
        sync(api, found)
        yield found
        for value in reversed(found):
            api.delete(value)


def _admitted(api: Api, group: Object) -> bool:
    """A controller that is ready is reached once kube-proxy has heard of it."""
    try:
        api.apply(group, GIT, dry_run=True)
    except Refused as refused:
        if refused.code != 500:
            raise
        return False
    return True


def test_the_group_comes_together_and_answers(api: Api, cluster: Cluster, objects: list[Object]) -> None:
    (group,) = (one for one in objects if one["kind"] == "LeaderWorkerSet")
    replicas, size = group["spec"]["replicas"], group["spec"]["leaderWorkerTemplate"]["size"]
    wait("every leader is ready", lambda: len(ready(api.list("Pod", "research", LEADERS))) == replicas)
    pods = api.list("Pod", "research", POOL)
    assert len({pod["spec"]["nodeName"] for pod in pods}) == len(pods) == size * replicas, "a pod takes a whole node"
    assert drift(api, objects) == []
    assert _answer(api, cluster)["usage"]["completion_tokens"] == 4


def test_a_group_ends_and_comes_back_as_a_whole(api: Api, cluster: Cluster, objects: list[Object]) -> None:
    before = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in api.list("Pod", "research", POOL)}
    cluster.kill("research", "deepseek-h100-0-1")

    def replaced() -> set[str]:
        pods = api.list("Pod", "research", POOL)
        new = {pod["metadata"]["name"] for pod in pods if pod["metadata"]["uid"] not in before}
        return new if len(ready(pods)) == len(before) else set()

    assert wait("another group", replaced, 180) == {"deepseek-h100-0", "deepseek-h100-0-1"}
    assert _answer(api, cluster)["usage"]["completion_tokens"] == 4


def test_a_scaler_writes_the_number_of_groups(api: Api, objects: list[Object]) -> None:
    """As ours does: through the subresource that it reads. A group goes and comes with all of its pods."""
    (group,) = (one for one in objects if one["kind"] == "LeaderWorkerSet")
    assert api.path_of(group) + "/scale" == Target(group["kind"], group["metadata"]["name"]).scale("research")
    api.scale(group, 0, SCALER)
    wait("the group is gone", lambda: not api.list("Pod", "research", POOL), 180)
    api.scale(group, 1, SCALER)
    wait("it is back", lambda: len(ready(api.list("Pod", "research", LEADERS))) == 1, 180)


def _answer(api: Api, cluster: Cluster) -> Object:
    """Of a completion through the Service, behind which are leaders only."""
    address = api.get("Service", "deepseek", "research")["spec"]["clusterIP"]
    body = json.dumps({"model": "DeepSeek-V3", "prompt": "hello", "max_tokens": 4})
    code = (
        "import sys, urllib.request as r\n"
        f"request = r.Request('http://{address}/v1/completions', sys.argv[1].encode(), {{'content-type': 'application/json'}})\n"
        "print(r.urlopen(request, timeout=10).read().decode())"
    )
    done = cluster.run("python3", "-c", code, body)
    assert done["code"] == 0, done["err"]
    found: Object = json.loads(done["out"])
    return found
