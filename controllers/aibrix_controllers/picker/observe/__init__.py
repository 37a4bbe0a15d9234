"""What the picker sees: which replicas there are, what each says of itself, what DNS knows. Everything ends in the state."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from aibrix_controllers.picker.config import Config
from aibrix_controllers.picker.observe import dns, file, kubernetes, scrape
from aibrix_controllers.picker.observe.fleet import Clock, Fleet, Note, Replica

__all__ = ["Clock", "Fleet", "Note", "Replica", "run"]
_AGAIN_S = 1.0


async def run(
    config: Callable[[], Config], fleet: Fleet, source: Path | kubernetes.Server, token: Path | None = None
) -> None:
    """Observes until cancelled. `token`: a file with what sidecars want to see. `source`: a file of endpoints, with a `probed` fleet, or the API server. `config` is asked each
    time, for it may be reloaded."""
    if isinstance(source, Path):
        replicas = _lasting(fleet.note, "file", lambda: file.follow(config, fleet, source))
    else:
        replicas = _lasting(fleet.note, "kubernetes", lambda: kubernetes.follow(config, fleet, source, random.random))
    await asyncio.gather(
        replicas,
        _lasting(fleet.note, "scrape", lambda: scrape.follow(config, fleet, random.random, token)),
        _lasting(fleet.note, "dns", lambda: dns.follow(config, fleet)),
    )


async def _lasting(note: Note, name: str, make: Callable[[], Awaitable[None]]) -> None:
    """A mistake of ours in one of them must not end the picker: it is said, and the part begins anew."""
    while True:
        try:
            await make()
        except Exception as error:
            note("observer_broken", part=name, why=repr(error))
        await asyncio.sleep(_AGAIN_S)
