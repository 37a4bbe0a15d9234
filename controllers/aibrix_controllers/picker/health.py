"""grpc.health.v1: whether this picker wants requests. Why by hand: one message with one number, of which the gRPC package would
bring twenty megabytes."""

from __future__ import annotations

from aibrix_controllers.picker.http2 import Call

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


class Health:
    """One status, whatever service is asked for."""

    def __init__(self) -> None:
        self.serving = False
        self.watchers: set[Call] = set()

    @property
    def status(self) -> bytes:
        return SERVING if self.serving else NOT_SERVING

    def set(self, serving: bool) -> None:
        if serving != self.serving:
            self.serving = serving
            for call in list(self.watchers):
                call.send(self.status)

    def check(self, call: Call) -> Check:
        return Check(self, call)

    def watch(self, call: Call) -> Watch:
        return Watch(self, call)


class Check:
    def __init__(self, health: Health, call: Call) -> None:
        self._health, self._call = health, call

    def message(self, data: bytes) -> None:
        self._call.send(self._health.status)
        self._call.finish()

    def half_closed(self) -> None: ...

    def closed(self) -> None: ...


class Watch(Check):
    """The status now, and each that follows."""

    def message(self, data: bytes) -> None:
        self._call.send(self._health.status)
        self._health.watchers.add(self._call)

    def closed(self) -> None:
        self._health.watchers.discard(self._call)
