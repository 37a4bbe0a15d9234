"""The two custom resources on a real API server: it takes every good object, refuses every bad one, and says why in words.

The table is the one that a CEL library and the API server's own validation code are asked as well (tests/platform).
"""

from collections.abc import Iterator

import pytest

from aibrix_compile import crds
from aibrix_compile.ownership import GIT
from tests.cluster.api import Api, Refused, wait
from tests.cluster.cluster import Cluster
from tests.cluster.gitops import sync
from tests.cluster.watch import Object
from tests.platform.cases import ADAPTERS, CASES, SCALING, Case


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[Api]:
    definitions = list(crds.definitions().values())
    sync(cluster.api, definitions)
    for one in definitions:
        wait("the kind is served", lambda one=one: _established(cluster.api, one))
    cluster.api.forget()
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llm"}}
    cluster.api.apply(space, "somebody")
    yield cluster.api
    cluster.api.delete(space)


def _established(api: Api, definition: Object) -> bool:
    conditions = api.read_back(definition)["status"].get("conditions") or ()  # null until somebody has looked at it
    assert not [one for one in conditions if one["type"] == "NonStructuralSchema"], conditions
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def _gone(api: Api, value: Object) -> bool:
    try:
        api.read_back(value)
    except Refused as refused:
        return refused.code == 404
    return False


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, api: Api) -> None:
    """Bad ones by their own message, which a schema error words as the API server does."""
    value = case.object
    if case.old is not None:
        api.apply({**value, **case.old}, GIT)
    try:
        api.apply(value, GIT, dry_run=True)
        said = ""
    except Refused as refused:
        assert refused.code in (400, 422), refused
        said = str(refused)
    finally:
        if case.old is not None:
            api.delete({**value, **case.old})
            wait("the old one is gone", lambda: _gone(api, value))  # the next one has its name
    assert bool(said) == (bool(case.says) or not case.rule), said
    if case.rule:
        assert case.says in said


@pytest.mark.parametrize("value", [ADAPTERS, SCALING], ids=lambda value: value["kind"])
def test_an_unknown_field_is_refused_by_name(value: Object, api: Api) -> None:
    with pytest.raises(Refused, match=r"\.spec\.sirvice"):
        api.apply({**value, "spec": {**value["spec"], "sirvice": "chat"}}, GIT)


@pytest.mark.parametrize("value", [ADAPTERS, SCALING], ids=lambda value: value["kind"])
def test_status_is_a_controllers_and_spec_is_gits(value: Object, api: Api) -> None:
    """A status written with the object is dropped, one written through the subresource stays when Git syncs again."""
    api.apply({**value, "status": {"observedGeneration": 7}}, GIT)
    assert "status" not in api.read_back(value)
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "AllLoaded",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    api.patch(
        value,
        {"status": {"observedGeneration": 1, "conditions": [condition]}},
        subresource="status",
        manager="controller",
    )
    api.apply(value, GIT)
    assert api.read_back(value)["status"]["conditions"][0]["reason"] == "AllLoaded"
    api.delete(value)
