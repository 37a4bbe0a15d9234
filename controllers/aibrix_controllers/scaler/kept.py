"""A season's history in a policy's status, so that a new scaler does not wait a week to know it again.

Two bytes for each five minutes: a week and some hours are 5.5 KiB of text, where a list of numbers would be 40.
"""

from __future__ import annotations

import math
import struct
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from aibrix_compile.policy.seasonal import WATCHED, WEEK, History

_MOST = WEEK + WATCHED + 1  # slots
_LARGEST = 65_504.0  # of a half float, requests per second; it keeps three digits


def written(history: History) -> dict[str, Any]:
    """From the first slot on one half float for each, NaN where a slot is not known; nothing of nothing."""
    if not history:
        return {}
    last = max(history)
    first = max(min(history), last - _MOST + 1)
    rates = [min(history.get(slot, math.nan), _LARGEST) for slot in range(first, last + 1)]
    return {"firstSlot": first, "rates": b64encode(struct.pack(f"<{len(rates)}e", *rates)).decode()}


def read(kept: Mapping[str, Any]) -> dict[int, float]:
    """Nothing where somebody else has written there."""
    try:
        packed = b64decode(kept["rates"], validate=True)
        rates = struct.unpack(f"<{len(packed) // 2}e", packed)
        return {int(kept["firstSlot"]) + index: rate for index, rate in enumerate(rates) if 0 <= rate < math.inf}
    except (KeyError, TypeError, ValueError, struct.error):
        return {}
