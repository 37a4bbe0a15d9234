"""GET /v1/models: every model and adapter that a tenant may use, of all services at once, in the shape in which engines list their
own. Why it is here: an engine knows only itself, and Envoy would ask just one."""

from __future__ import annotations

from typing import Any

import orjson

from aibrix_controllers.picker.config import Config, Service

PATH = "/v1/models"


def listing(config: Config, tenant: str, created: int) -> bytes:
    """`created`: seconds since 1970, as the format wants one."""
    found = [(name, config.permitted(tenant, name)) for name in config.models]
    data = [_entry(name, services[0], created) for name, services in found if services]
    return orjson.dumps({"object": "list", "data": data})


def single(config: Config, tenant: str, name: str, created: int) -> bytes | None:
    """None: there is no such model for this tenant."""
    services = config.permitted(tenant, name)
    return orjson.dumps(_entry(name, services[0], created)) if services else None


def _entry(name: str, service: Service, created: int) -> dict[str, Any]:
    parent = None if name == service.model else service.model
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": service.name,
        "root": name,
        "parent": parent,
    }
