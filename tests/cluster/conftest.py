"""One cluster for all tests; a namespace of its own for each that asks."""

import itertools
from collections.abc import Iterator

import pytest

from tests.cluster.api import wait
from tests.cluster.cluster import Cluster
from tests.toolchain import Missing, absent

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    try:
        running = Cluster.start()
        with running as found:
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
