"""From samples to what a decision reads: sliding windows over one service's gauges, arrivals and answers.

The caller - the scaler, or the simulator in its place - feeds what it has just read, in the order of time, and asks for an
`Observation` when it wants to decide. A sample costs the same whatever the windows hold; nothing here reads a clock.
"""

from __future__ import annotations

from aibrix_compile.policy.observation import Load, Observation, PoolState, Reading, Tokens, Traffic
from aibrix_compile.policy.quantities import Total
from aibrix_compile.policy.seasonal import History, Slots
from aibrix_compile.policy.trust import Trust
from aibrix_compile.policy.windows import EMPTY, SECOND, Series

LONG = 900
"""Seconds: the memory for bursts, and for what requests look like."""
MINUTE, BURST, TREND = 60, 30, 300  # seconds
_LEAST = 10  # seconds that a rate is taken over at least, or the first request would be a storm
_SILENT = 10 * SECOND  # without a word from any picker their counts are missing
_UNIT = 1_000_000  # sums are whole millionths


class Signals:
    """The windows of one service, from `start` in microseconds on. In seconds: windows of `kpa`, and the cold start, over which
    slopes have to come true. `history`: rates of the days before, if they are known."""

    def __init__(
        self, start: int, stable: int = 60, panic: int = 6, cold_start: int = 0, history: History | None = None
    ) -> None:
        self._start, self._stable, self._panic = start, stable, panic
        self._load = Series(stable, panic, LONG)
        self._now: Reading | None = None
        self._running, self._waiting = Series(MINUTE), Series(panic)
        self._arrivals, self._bursts = Series(MINUTE, BURST, TREND, LONG), EMPTY
        self._answers, self._itl = Series(LONG), Series(MINUTE)
        self._prompt = self._cached = 0.0
        self._output: float | None = None
        self._arrived: int | None = None
        self._heard: int | None = None
        self._trust = Trust(max(MINUTE, cold_start))
        self._slots = Slots(dict(history or {}))

    @property
    def history(self) -> History:
        """Rates of five minutes each, as far as all of them was seen."""
        return self._slots.rates

    def gauges(
        self, now: int, load: Reading | None, running: Reading | None = None, waiting: Reading | None = None
    ) -> None:
        """What replicas say of themselves; None where even their number is unknown. `load` is what the strategy follows."""
        self._now = load
        for series, one in ((self._load, load), (self._running, running), (self._waiting, waiting)):
            if one is not None:
                series.add(now, round(one.total.value * _UNIT), round(one.silent * _UNIT), 1)

    def arrived(self, now: int, requests: int, prompt_tokens: int = 0, cached_tokens: int = 0) -> None:
        """Requests that came since the last call, by the pickers, 0 if none did: without calls their counts are missing.
        `prompt_tokens` of all of them together, `cached_tokens` of these were thought to be cached."""
        self._tick(now)
        self._slots.add(now, requests, heard=self._heard is not None and now - self._heard <= _SILENT)
        self._heard = now
        self._arrivals.add(now, requests, prompt_tokens, cached_tokens)
        if requests:
            self._arrived = now

    def answered(self, now: int, requests: int, output_tokens: int) -> None:
        """Answers that ended, and their tokens together."""
        self._answers.add(now, requests, output_tokens)

    def streamed(self, now: int, tokens: int, milliseconds: float) -> None:
        """Tokens after the first of each answer, and the times between them together."""
        self._itl.add(now, tokens, round(milliseconds * _UNIT))

    def observe(
        self,
        now: int,
        pools: tuple[PoolState, ...],
        in_flight: Total | None = None,
        held: int = 0,
    ) -> Observation:
        """All windows as they are at `now`."""
        self._tick(now)
        for series in (self._load, self._running, self._waiting, self._answers, self._itl):
            series.advance(now)
        tokens, milliseconds, _ = self._itl.sums(MINUTE)
        return Observation(
            pools=pools,
            load=self._loads(),
            traffic=self._traffic(now),
            in_flight=in_flight,
            held=held,
            waiting=_mean(self._waiting, self._panic),
            running=_mean(self._running, MINUTE),
            tokens=self._tokens(),
            itl_ms=milliseconds / tokens / _UNIT if tokens else None,
        )

    def _tick(self, now: int) -> None:
        """Between two arrivals the rate of 30 s only falls, so its largest value is the one before a second ends."""
        before = self._excess(now)
        second = self._arrivals.advance(now)
        if second:
            self._bursts = self._bursts.push(now, before, LONG * SECOND)

    def _excess(self, now: int) -> float:
        """By how much the rate of 30 s is above that of five minutes: bursts, and not the trend that they ride on."""
        burst, trend = self._arrivals.sums(BURST)[0], self._arrivals.sums(TREND)[0]
        return max(0.0, burst / BURST - trend / self._seconds(now, TREND))

    def _loads(self) -> Load | None:
        stable, panic, long = (_mean(self._load, window) for window in (self._stable, self._panic, LONG))
        if self._now is None or stable is None or long is None:
            return None
        return Load(self._now, stable, panic or stable, long)

    def _traffic(self, now: int) -> Traffic | None:
        if self._heard is None or now - self._heard > _SILENT:
            return None
        minute, trend, long = (self._arrivals.sums(window)[0] for window in (MINUTE, TREND, LONG))
        rate, slope = minute / self._seconds(now, MINUTE), 0.0
        before = self._seconds(now, TREND) - MINUTE
        if before >= MINUTE:
            # the middles of both parts lie half of all apart
            slope = (rate - (trend - minute) / before) / ((before + MINUTE) / 2)
            self._trust.saw(now, rate, slope)
        return Traffic(
            rate=rate,
            slope=slope,
            burst=trend / self._seconds(now, TREND) + max(self._bursts.top, self._excess(now)),
            long_rate=long / self._seconds(now, LONG),
            long_count=long,
            idle=now - (self._start if self._arrived is None else self._arrived),
            trend=trend / self._seconds(now, TREND),
            trust=self._trust.share,
        )

    def _seconds(self, now: int, window: int) -> float:
        """That a window has really covered: the watch may be younger."""
        return max(_LEAST, min(window, (now - self._start) / SECOND))

    def _tokens(self) -> Tokens | None:
        """Means of 15 minutes; the last known ones where these saw nothing."""
        requests, prompt, cached = self._arrivals.sums(LONG)
        if prompt:
            self._prompt, self._cached = prompt / requests, cached / requests
        ended, output, _ = self._answers.sums(LONG)
        if ended:
            self._output = output / ended
        return Tokens(self._prompt, self._cached, self._output) if self._prompt else None


def _mean(series: Series, window: int) -> Reading | None:
    """Over the samples in a window."""
    total, silent, samples = series.sums(window)
    return Reading(Total(total / samples / _UNIT), silent / samples / _UNIT) if samples else None
