"""What is asked for, told to the controller that places adapters: counts since the start, what waits, what is in flight. Each
picker tells of its own requests alone."""

from __future__ import annotations

from typing import Any

from aibrix_controllers.picker.state import State


def demand(state: State) -> dict[str, dict[str, Any]]:
    """By service, of those that have adapters."""
    found: dict[str, dict[str, Any]] = {
        name: {"asked": {}, "waiting": {}, "in_flight": {}}
        for name, fleet in state.fleets.items()
        if fleet.config.adapters
    }
    for (service, adapter), count in state.asked.items():
        if service in found:
            found[service]["asked"][adapter] = count
    for (service, model), count in state.awaited.items():
        if service in found and model != state.fleets[service].config.model:
            found[service]["waiting"][model] = count
    for sent in state.in_flight():
        if sent.adapter and sent.service in found:
            row = found[sent.service]["in_flight"].setdefault(sent.address, {})
            row[sent.adapter] = row.get(sent.adapter, 0) + 1
    return found
