"""A replica's own word: the load stream of its sidecar, a line when something moved and one each second in any case.

Why it is better than asking: an idle engine costs a line a second instead of a page of 55 KB, a busy one tells within 50 ms, and an
adapter's coming and going is known before the first request for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import orjson

from aibrix_controllers.picker.config import Config, Service
from aibrix_controllers.picker.observe.fleet import Fleet, Key
from aibrix_controllers.picker.observe.http import Connection, TooLarge, Unreachable

SILENT_S = 3.0
"""Without a line the stream is dead, or the sidecar is."""
LINE_BYTES = 4 << 20
PATH = "/v1/load?watch=1"


class Listener:
    """Of one replica. `service` as it was configured when the stream began: with another configuration it begins anew."""

    def __init__(
        self, config: Callable[[], Config], fleet: Fleet, key: Key, service: Service, token: Path | None
    ) -> None:
        self._config, self._fleet, self._key, self._service, self._token = config, fleet, key, service, token
        self._connection = Connection(key[1].rpartition(":")[0].strip("[]"), service.runtime)
        self._last = b""
        self._data: dict[str, Any] = {}

    async def follow(self, heard: Callable[[], None]) -> str:
        """Tells the state of each line, until the stream ends; why it did. `heard` is called with the first."""
        try:
            headers = {"authorization": f"Bearer {self._token.read_text('ascii').strip()}"} if self._token else {}
            async with aclosing(self._connection.lines(PATH, LINE_BYTES, headers)) as lines:
                first = True
                while True:
                    async with asyncio.timeout(SILENT_S):
                        answer = await anext(lines)
                    if answer.status != 200:
                        return f"the sidecar answers {answer.status} {answer.body[:200].decode('utf-8', 'replace')}"
                    if answer.body:
                        self._tell(answer.body)
                        if first:
                            first = False
                            heard()
                    if self._config().services.get(self._key[0]) is not self._service:
                        return ""
        except StopAsyncIteration:
            return "the sidecar ended the stream"
        except TimeoutError:
            return f"the sidecar was silent for {SILENT_S:g} s"
        except (Unreachable, TooLarge, OSError, ValueError, KeyError, TypeError) as error:
            return str(error) or type(error).__name__
        finally:
            self._connection.close()

    def _tell(self, line: bytes) -> None:
        """A line that says the same as the one before is only a sign of life."""
        fleet, state, now = self._fleet, self._fleet.state, self._fleet.clock()
        if line != self._last:
            self._last, self._data = line, orjson.loads(line)
        data = self._data
        well, gone = data["engine"] == "ready", data["engine"] == "gone"
        fleet.heard(self._key, listening=well)
        state.leaves(*self._key, data["draining"], "stream", now)
        if not well:
            state.failed(*self._key, hung=True, gone=gone, now=now)
            return
        if "adapters" in data:
            state.serves(*self._key, frozenset((self._service.model, *(row["name"] for row in data["adapters"]))), now)
        if data["source"] == "none":
            state.failed(*self._key, hung=False, now=now)
            return
        state.report(
            *self._key,
            running=data["running"],
            waiting=data["waiting"],
            kv_share=data["kv_used"],
            kv_tokens=data["kv_tokens"],
            now=now,
        )
