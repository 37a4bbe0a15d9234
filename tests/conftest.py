"""What all tests share: in CI, Hypothesis draws the same examples each time, so that a red run is somebody's change; and
what tests say to the person who waits gets past pytest's capture."""

import os

import pytest
from hypothesis import settings

from tests import toolchain

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        toolchain.quiet = capture.global_and_fixture_disabled
