"""Replicas from a file: {"chat": [{"address": "127.0.0.1:8001", "pool": "l4"}]}. Why it exists: on a laptop and in tests there
is no Kubernetes. A file that is broken or away changes nothing, and is said once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from aibrix_controllers.picker.config import Config
from aibrix_controllers.picker.observe.fleet import Fleet, Replica

PERIOD_S = 0.5


def parse(text: bytes) -> dict[str, dict[str, str]]:
    """Service -> address -> pool. ValueError, in one line with the place."""
    data = orjson.loads(text)  # its error is a ValueError
    if not isinstance(data, dict):
        raise ValueError("a table of services is wanted")
    return {service: _replicas(service, rows) for service, rows in data.items()}


def _replicas(service: str, rows: object) -> dict[str, str]:
    if not isinstance(rows, list):
        raise ValueError(f"{service}: a list of replicas is wanted")
    found: dict[str, str] = {}
    for index, row in enumerate(rows):
        at = f"{service}[{index}]"
        address, pool = (row.get("address"), row.get("pool", "")) if isinstance(row, dict) else (None, "")
        if not isinstance(address, str) or not isinstance(pool, str):
            raise ValueError(f'{at}: {{"address": "HOST:PORT", "pool": NAME}} is wanted')
        host, _, port = address.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{at}: {address} is not HOST:PORT")
        if address in found:
            raise ValueError(f"{at}: {address} stands there twice")
        found[address] = pool
    return found


async def follow(config: Callable[[], Config], fleet: Fleet, path: Path) -> None:
    """Reads the file whenever it changes, until cancelled. Replicas of services that the configuration does not have wait
    until it has them."""
    seen: object = None
    wanted: dict[str, dict[str, str]] = {}
    while True:
        try:
            stat = path.stat()
            stamp: object = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp != seen:
                wanted = parse(path.read_bytes())
                fleet.begun.set()
        except OSError as error:
            stamp = error.errno
            if stamp != seen:
                fleet.note("endpoints_file_away", path=str(path), why=error.strerror)
        except ValueError as error:
            fleet.note("endpoints_file_rejected", path=str(path), why=str(error))
        seen = stamp
        services = config().services.keys()
        for service in fleet.services() | services:
            _apply(fleet, service, wanted.get(service, {}) if service in services else {})
        await asyncio.sleep(PERIOD_S)


def _apply(fleet: Fleet, service: str, wanted: Mapping[str, str]) -> None:
    """What is known of a replica that stays, stays."""
    known = {address: one for (name, address), one in fleet.replicas.items() if name == service}
    kept = {address: one for address, one in known.items() if wanted.get(address) == one.pool}
    fleet.replace(
        service, {address: kept.get(address) or Replica(pool, ready=False) for address, pool in wanted.items()}
    )
