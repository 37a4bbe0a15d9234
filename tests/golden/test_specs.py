"""specs/ is generated from the language; what is committed is what the code says."""

from pathlib import Path

import pytest

from aibrix_compile.cli.schema import files

SPECS = Path(__file__).parents[2] / "specs"


@pytest.mark.parametrize("name", sorted(files()))
def test_committed_files_are_what_the_language_says(name: str) -> None:
    if (SPECS / name).read_text("utf-8") != files()[name]:
        pytest.fail(f"specs/{name} is stale: run `make golden` and review the difference")
