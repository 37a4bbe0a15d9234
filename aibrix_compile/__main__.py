"""`python -m aibrix_compile`."""

from aibrix_compile.cli.main import entry

entry()
