"""vLLM's load, told to the sidecar: a stat logger that sends a datagram when something moved, at most every 50 ms.

Why inside the engine: the page of metrics has 55 KB, and whoever reads it ten times a second takes that from the process that
streams tokens. This runs in the same process, costs a comparison for each step, and never raises, blocks or waits: without
somebody who listens a datagram is dropped. It needs the standard library and vLLM, so that its folder on PYTHONPATH is enough.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from typing import Any

from vllm.logger import init_logger
from vllm.v1.metrics.loggers import StatLoggerBase

SPACING_S = 0.05
_LOG = init_logger("vllm.aibrix_stats")


class LoadLogger(StatLoggerBase):
    """One for each of the engine's cores."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self._core, self._boot = engine_index, os.urandom(8).hex()
        self._path = os.environ.get("AIBRIX_LOAD_SOCKET", "")
        self._cache = vllm_config.cache_config
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._line.setblocking(False)
        self._due = 0.0
        self._gauges: tuple[Any, ...] = (0, 0, 0.0, frozenset())
        self._sent: tuple[Any, ...] = ()
        self._totals = dict.fromkeys(
            (
                "requests",
                "prompt_tokens",
                "output_tokens",
                "ttft_s",
                "ttft_n",
                "itl_s",
                "itl_n",
                "cached_tokens",
                "queried_tokens",
            ),
            0.0,
        )

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        if not self._path:
            return
        try:
            if scheduler_stats is not None:
                self._scheduled(scheduler_stats)
            if iteration_stats is not None:
                self._stepped(iteration_stats)
            now = time.monotonic()
            idle = not self._gauges[0] and not self._gauges[1]
            if now >= self._due or (idle and self._gauges != self._sent):
                self._send(now)
        except Exception:
            self._stop()

    def log_engine_initialized(self) -> None:
        self._tell()

    def log(self) -> None:
        """Each ten seconds, also while nothing runs."""
        self._tell()

    def _scheduled(self, stats: Any) -> None:
        users = {name for name, count in stats.running_lora_adapters.items() if count}
        users |= {name for name, count in stats.waiting_lora_adapters.items() if count}
        waiting = stats.num_waiting_reqs + getattr(stats, "num_skipped_waiting_reqs", 0)
        self._gauges = (stats.num_running_reqs, waiting, stats.kv_cache_usage, frozenset(users))
        if (cache := stats.prefix_cache_stats) is not None:
            self._totals["cached_tokens"] += cache.hits
            self._totals["queried_tokens"] += cache.queries

    def _stepped(self, stats: Any) -> None:
        totals = self._totals
        totals["prompt_tokens"] += stats.num_prompt_tokens
        totals["output_tokens"] += stats.num_generation_tokens
        totals["requests"] += len(stats.finished_requests)
        firsts, gaps = stats.time_to_first_tokens_iter, stats.inter_token_latencies_iter
        totals["ttft_s"], totals["ttft_n"] = totals["ttft_s"] + sum(firsts), totals["ttft_n"] + len(firsts)
        totals["itl_s"], totals["itl_n"] = totals["itl_s"] + sum(gaps), totals["itl_n"] + len(gaps)

    def _tell(self) -> None:
        if self._path:
            try:
                self._send(time.monotonic())
            except Exception:
                self._stop()

    def _send(self, now: float) -> None:
        running, waiting, used, users = self._sent = self._gauges
        self._due = now + SPACING_S
        blocks = self._cache.num_gpu_blocks or 0
        data = {
            "engine": self._core,
            "boot": self._boot,
            "running": running,
            "waiting": waiting,
            "kv_used": used,
            "kv_tokens": blocks * self._cache.block_size,
            "in_use": sorted(users),
            "totals": self._totals,
        }
        with suppress(OSError):  # nobody listens now, or not fast enough: the next one says it again
            self._line.sendto(json.dumps(data).encode(), self._path)

    def _stop(self) -> None:
        self._path = ""
        _LOG.exception("load is not told any more; the sidecar reads the page of metrics instead")
