"""`python -m aibrix_compile`: the same entry as the console script."""

from aibrix_compile.cli.main import entry

entry()
