"""Reads the catalog's data files. Why it exists: a file is parsed when something is looked up in it, and then once."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


@cache
def load(file: str) -> Any:
    return json.loads((FOLDER / file).read_text("utf-8"))
