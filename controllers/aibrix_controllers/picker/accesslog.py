"""Envoy's access log, as a stream: what requests really cost. Why it exists: a picker knows an estimate when a request starts and
never sees the answer; the log brings its usage, and with it the correction of a budget and of the estimates to come.

An entry comes to one picker, not always the one that decided: all that is needed stands in the entry, as the metadata that the
picker gave to Envoy. Answers that were cut off have no usage; their estimate stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf.message import DecodeError

from aibrix_controllers.picker.picker import Picker
from aibrix_controllers.picker.state import Learnt

USAGE = "envoy.ai.token_usage"


class Usage(NamedTuple):
    input: int
    output: int


class Entries:
    """The handler of one stream of entries."""

    def __init__(self, picker: Picker, finish: Callable[[], None]) -> None:
        self._picker, self._finish = picker, finish

    def message(self, data: bytes) -> None:
        try:
            entries = StreamAccessLogsMessage.FromString(data).http_logs.log_entry
        except DecodeError:
            self._picker.log("broken_message", bytes=len(data))
            return
        learnt: dict[str, list[int]] = {}
        for entry in entries:
            self._entry(entry, learnt)
        for service, sums in learnt.items():
            self._picker.state.learn(Learnt(service, *sums))

    def half_closed(self) -> None:
        self._finish()

    def closed(self) -> None: ...

    def _entry(self, entry: Any, learnt: dict[str, list[int]]) -> None:
        common, picker = entry.common_properties, self._picker
        metadata = common.metadata
        gateway = metadata.filter_metadata["gateway"].fields if "gateway" in metadata.filter_metadata else {}
        tenant = str(common.custom_tags.get("tenant", ""))
        service = str(gateway["service"].string_value) if "service" in gateway else ""
        estimate = _number(gateway, "estimate")
        typed = metadata.typed_filter_metadata
        found = usage(typed[USAGE].value) if USAGE in typed else None
        now = picker.clock.now()
        if found is None:
            if estimate and entry.response.response_code.value >= 400:  # nothing was computed
                picker.state.spend(tenant, -estimate, now)
            return
        picker.state.spend(tenant, found.input + found.output - estimate, now)
        if service not in picker.config.services:
            return
        counts = picker.metrics.counts["picker_tokens_total"]
        name = tenant if tenant in picker.tenants else "other" if tenant else ""
        counts[service, name, "input"] += found.input
        counts[service, name, "output"] += found.output
        sums = learnt.setdefault(service, [0, 0, 0, 0])
        size = int(_number(gateway, "prompt_bytes"))
        for place, more in enumerate((1, size, found.input if size else 0, found.output)):
            sums[place] += more


def usage(data: bytes) -> Usage | None:
    """envoy.data.ai.v3.TokenUsage, which has no Python message yet: fields 3 (input) and 4 (output) are UInt64Value, itself one
    field of a varint. None: there is no number in it, or it is not that message."""
    found: dict[int, int] = {}
    place = 0
    try:
        while place < len(data):
            key, place = _varint(data, place)
            if key & 7 == 0:
                _, place = _varint(data, place)
            elif key & 7 == 2:
                size, place = _varint(data, place)
                inner, place = data[place : place + size], place + size
                if key >> 3 in (3, 4):
                    found[key >> 3] = _varint(inner, 1)[0] if inner[:1] == b"\x08" else 0
            else:
                return None
    except IndexError:
        return None
    return Usage(found.get(3, 0), found.get(4, 0)) if found else None


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """IndexError: the data ends within it."""
    number = shift = 0
    while True:
        byte = data[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place


def _number(gateway: Any, name: str) -> float:
    return float(gateway[name].number_value) if name in gateway else 0.0
