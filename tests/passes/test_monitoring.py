"""The roles of metrics are played in every engine version that the catalog has."""

import pytest

from aibrix_compile.catalog import engines
from aibrix_compile.passes.monitoring import ROLES


@pytest.mark.parametrize("version", engines.versions("vllm"))
@pytest.mark.parametrize("role", ROLES)
def test_every_version_has_it(version: str, role: str) -> None:
    engine = engines.find("vllm", version)
    assert engine is not None and engine.metric(ROLES[role]) is not None
