"""What a probe finds, and where to look for a router's word that something is wrong."""

import re
import urllib.request
from collections.abc import Iterable
from typing import NamedTuple

from tests.bench.gateway.routers import Running
from tests.bench.gateway.wire import Answer

_WORDS = re.compile(r"degrad|stale|fallback|scrape|metrics? (gone|missing|unavailable)", re.I)


class Row(NamedTuple):
    """One line of the table; `good`: as our gateway has to be, None: not its matter."""

    what: str
    good: bool | None
    found: str


class Signs:
    """Where a router says that it goes on with less than it needs: its log, its metrics, its answers' headers."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._usual: set[str] | None = None
        self._read = [len(log.read_bytes()) for log in running.logs]
        self._series = self._page()

    def new(self, answers: Iterable[Answer]) -> list[str]:
        """Where it says so since the last look: `header NAME`, `metric SERIES`, `log`. The first look is at a
        router whose engines are well; what it says there is no sign later."""
        page, texts = self._page(), [log.read_bytes() for log in self._running.logs]
        said = {
            f"header {name}" for answer in answers for name, value in answer.headers.items() if _WORDS.search(value)
        }
        said |= {f"metric {name}" for name in page if self._series.get(name) != page[name]}
        fresh = [text[start:].decode("utf-8", "replace") for text, start in zip(texts, self._read, strict=True)]
        said |= {"log"} if any(_WORDS.search(text) for text in fresh) else set()
        self._series, self._read = page, [len(text) for text in texts]
        self._usual = said if self._usual is None else self._usual
        return sorted(said - self._usual)

    def _page(self) -> dict[str, str]:
        """Series whose name speaks of it, with their values; those that are 0 are not there."""
        if not self._running.metrics:
            return {}
        try:
            with urllib.request.urlopen(self._running.metrics, timeout=5) as page:
                rows = page.read().decode().splitlines()
        except OSError:
            return {}
        pairs = (row.rpartition(" ")[::2] for row in rows if not row.startswith("#"))
        return {name: value for name, value in pairs if _WORDS.search(name) and float(value)}
