"""What can go wrong, by code: the seam between what fetches, checks and loads, and what answers a caller."""

from __future__ import annotations

STATUS = {
    "bad_request": 400,
    "bad_name": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "uri_not_allowed": 403,
    "not_found": 404,
    "not_loaded": 404,
    "in_use": 409,
    "no_room": 409,
    "digest_mismatch": 409,
    "too_large": 413,
    "unusable": 422,
    "denied": 502,
    "engine_refused": 502,
    "source_failed": 502,
    "engine_away": 503,
    "no_keys": 503,
    "disk_full": 507,
}
"""HTTP status of each code."""


class Failed(Exception):
    """`code` is one of STATUS; `engine` has the engine's own words, where it said something."""

    def __init__(self, code: str, message: str, engine: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.engine = code, message, engine

    @property
    def status(self) -> int:
        return STATUS[self.code]
