"""What is asked for, told to the controllers that place adapters and scale: counts since the start, what waits, what is in flight.
Each picker tells of its own requests alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aibrix_controllers.picker.state import State

_WANTED = ("picked", "429", "503")
"""Codes of requests that a replica should have answered."""


def demand(state: State, counts: Mapping[str, Mapping[tuple[str, ...], float]]) -> dict[str, dict[str, Any]]:
    """By service. `counts` are the picker's metrics."""
    found: dict[str, dict[str, Any]] = {
        name: {
            "requests": sum(counts["picker_requests_total"].get((name, code), 0) for code in _WANTED),
            "prompt_tokens": counts["picker_prompt_tokens_total"].get((name,), 0),
            "cached_tokens": counts["picker_prefix_hit_tokens_total"].get((name,), 0),
            "held": 0,
            "engines": {},
            "asked": {},
            "waiting": {},
            "in_flight": {},
        }
        for name in state.fleets
    }
    for (service, adapter), count in state.asked.items():
        if service in found:
            found[service]["asked"][adapter] = count
    for (service, model), count in state.awaited.items():
        if service not in found:
            continue
        if model == state.fleets[service].config.model:
            found[service]["held"] = count  # who waits for an adapter needs no more replicas
        else:
            found[service]["waiting"][model] = count
    for sent in state.in_flight():
        if sent.service not in found:
            continue
        engines = found[sent.service]["engines"]
        engines[sent.address] = engines.get(sent.address, 0) + 1
        if sent.adapter:
            row = found[sent.service]["in_flight"].setdefault(sent.address, {})
            row[sent.adapter] = row.get(sent.adapter, 0) + 1
    return found
