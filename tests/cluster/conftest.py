"""One cluster for all tests; a namespace of its own for each that asks.

`AIBRIX_CLUSTER=kind` takes kind instead of processes, `AIBRIX_KUBERNETES=1.34` another version than the default.
"""

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.cluster import assets
from tests.cluster.api import wait
from tests.cluster.cluster import Cluster
from tests.cluster.kind import KindCluster
from tests.toolchain import Missing, absent

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster | KindCluster]:
    try:
        kind = KindCluster if os.environ.get("AIBRIX_CLUSTER") == "kind" else Cluster
        with kind.start(os.environ.get("AIBRIX_KUBERNETES", assets.DEFAULT)) as found:
            yield found
    except Missing as missing:
        absent(str(missing))


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """An empty namespace with its ServiceAccount; deleted afterwards without waiting."""
    name = f"test-{next(_numbers)}"
    value = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    cluster.api.create(value)
    wait("a default ServiceAccount", lambda: cluster.api.list("ServiceAccount", name))
    yield name
    cluster.api.delete(value)
