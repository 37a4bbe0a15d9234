"""A fixture starts engines and ends them."""

from collections.abc import Iterator
from typing import Any

import pytest
from mocks import Make, Mock


@pytest.fixture
def start() -> Iterator[Make]:
    made: list[Mock] = []

    def make(*flags: str, **options: Any) -> Mock:
        made.append(Mock(*flags, **options))
        return made[-1]

    yield make
    for mock in made:
        mock.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Mock]:
    """For tests that leave nothing behind."""
    mock = Mock("--max-model-len=2048", "--enable-prompt-tokens-details")
    yield mock
    mock.close()
