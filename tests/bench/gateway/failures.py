"""Probes of parts that fail under traffic: an engine killed, hung or full, metrics gone, the picker killed."""

import asyncio
import signal
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.bench.gateway.engine import ADAPTER, MODEL
from tests.bench.gateway.engines import Counting, Mocks
from tests.bench.gateway.load import Prompts, streams
from tests.bench.gateway.refusals import body
from tests.bench.gateway.routers import Running
from tests.bench.gateway.row import Row, Signs
from tests.bench.gateway.wire import Answer, once, post

_RATE = 20.0  # streams a second, of about 0.8 s each: four in flight on each engine
_WARM = 3.0  # seconds before anything fails
_SHORT_RATE = 60.0  # requests a second where engines answer after 30 ms


class Outcome(NamedTuple):
    """Of streams: `failed` before their answer had begun, `broken` after, `silent` of those as if complete."""

    sent: int
    failed: int
    broken: int
    silent: int


def outcome(answers: Sequence[Answer]) -> Outcome:
    begun = [answer for answer in answers if answer.status == 200]
    broken = [answer for answer in begun if not complete(answer)]
    silent = sum(answer.whole and b'"error"' not in answer.body for answer in broken)
    return Outcome(len(answers), len(answers) - len(begun), len(broken), silent)


def complete(answer: Answer) -> bool:
    """All tokens that were asked for; a router may end a stream that broke with [DONE] of its own."""
    return answer.status == 200 and b'"finish_reason":"length"' in answer.body


class Traffic:
    """Streams in the background, of many conversations, until `stopped`."""

    def __init__(self, router: Running, rate: float = _RATE, tokens: int = 40, stream: bool = True) -> None:
        self._stop = asyncio.Event()
        prompts = Prompts(1_000, router.headers, conversations=200, max_tokens=tokens, stream=stream)
        self._task = asyncio.create_task(streams(router.address, prompts, rate, self._stop))

    async def stopped(self) -> list[Answer]:
        self._stop.set()
        return await self._task


async def killed(router: Running, engines: Mocks) -> list[Row]:
    """The busiest engine is killed and comes back after 6 s."""
    traffic = Traffic(router)
    await asyncio.sleep(_WARM)
    busiest = max(engines.addresses, key=engines.arrived)
    engines.processes[busiest].kill()
    await asyncio.sleep(6)
    back = await asyncio.to_thread(engines.again, busiest)
    used = 0.0
    while not used and time.perf_counter() < back + 10:
        await asyncio.sleep(0.1)
        used = time.perf_counter() if await asyncio.to_thread(engines.arrived, busiest) else 0.0
    found = outcome(await traffic.stopped())
    ends = f", {found.silent} of them as if complete" if found.silent else ""
    text = f"{found.sent} sent, {found.failed} failed, {found.broken} begun streams broken{ends}"
    return [
        Row("busiest engine killed for 6 s", not found.failed and not found.silent, text),
        Row(
            "  back in use", 0 < used < back + 5, f"{used - back:.1f} s after its return" if used else "not within 10 s"
        ),
    ]


async def hung(router: Running, engines: Mocks) -> list[Row]:
    """The busiest engine stops without a word (SIGSTOP) for 9 s; a request that waits for its end is stuck."""
    traffic = Traffic(router)
    await asyncio.sleep(_WARM)
    busiest = max(engines.addresses, key=engines.arrived)
    process = engines.processes[busiest]
    process.send_signal(signal.SIGSTOP)
    try:
        start = time.perf_counter()
        await asyncio.sleep(9)
        end = time.perf_counter()
    finally:
        process.send_signal(signal.SIGCONT)
    answers = await traffic.stopped()
    early, late = (
        [answer for answer in answers if start + low <= answer.sent < start + high] for low, high in ((-1, 2), (2, 7))
    )
    stuck, avoidable = ([one for one in window if one.ended > end or not complete(one)] for window in (early, late))
    ended = sum(answer.ended < end for answer in stuck)
    text = (
        f"{len(stuck)} of {len(early)} stuck that came before or in its first 2 s, {ended} ended by the router; "
        f"{len(avoidable)} of {len(late)} stuck in the next 5 s"
    )
    return [Row("busiest engine hung for 9 s", not avoidable, text)]


async def full(router: Running, engines: Counting) -> list[Row]:
    """Two engines say in their metrics that they are full, and answer as before."""
    for address in engines.addresses:
        await engines.set(address, delay=0.03)
    traffic = Traffic(router, _SHORT_RATE, 4, stream=False)
    await asyncio.sleep(1)
    before = await _shares(engines, 3)
    known = sorted(engines.addresses[:-1], key=lambda address: -before[address])  # the last one is not the router's
    queued, cached = known[:2]
    await engines.set(queued, waiting=200)
    await engines.set(cached, kv=0.95)
    await asyncio.sleep(2)
    soon = await _shares(engines, 3)
    await asyncio.sleep(5)
    later = await _shares(engines, 3)
    await traffic.stopped()
    for address in (queued, cached):
        await engines.set(address, waiting=0, kv=0.1)
    return [
        Row(
            f"an engine reports {what}",
            later[address] < before[address] / 2,
            f"its share {before[address]:.0%}, {soon[address]:.0%} after 2 s, {later[address]:.0%} after 10 s",
        )
        for what, address in (("200 waiting", queued), ("KV cache 0.95 full", cached))
    ]


async def _shares(engines: Counting, seconds: float) -> dict[str, float]:
    """Of the calls in the next `seconds`."""
    before = await engines.calls()
    await asyncio.sleep(seconds)
    gained = {address: calls - before[address] for address, calls in (await engines.calls()).items()}
    return {address: count / max(1, sum(gained.values())) for address, count in gained.items()}


async def blind(router: Running, engines: Counting) -> list[Row]:
    """/metrics answers 404, first on one engine, then on all; the engines answer as before."""
    asked = sum((await engines.calls("/metrics", "GET")).values())
    signs, rows = Signs(router), []
    for what, without in (
        ("", ()),
        ("metrics gone on one engine", engines.addresses[:1]),
        ("metrics gone on all", engines.addresses),
    ):
        for address in engines.addresses:
            await engines.set(address, delay=0.03, metrics=address not in without)
        traffic = Traffic(router, _SHORT_RATE, 4, stream=False)
        shares = await _shares(engines, 5 if what else 2)
        answers = await traffic.stopped()
        said = signs.new(answers)  # what it also says while nothing is wrong is no sign
        failed = sum(answer.status != 200 for answer in answers)
        words = f"says so in {said[0]}" if said else "says nothing" if asked else "never reads them"
        text = f"{failed} of {len(answers)} failed, share of the busiest {max(shares.values()):.0%}, {words}"
        rows.append(Row(what, not failed and bool(said) if asked or failed else None, text))
    for address in engines.addresses:
        await engines.set(address, metrics=True)
    return rows[1:]


async def alone(router: Running, engines: Mocks) -> list[Row]:
    """The picker is killed under traffic."""
    what = "picker killed"
    if "picker" not in router.processes:
        return [Row(what, None, "has none")]
    traffic = Traffic(router)
    await asyncio.sleep(_WARM)
    router.processes["picker"].kill()
    await asyncio.sleep(4)
    foreign = await once(router.address, [post(router.headers, body(ADAPTER))])
    plain = await once(router.address, [post(router.headers, body(MODEL))])
    found = outcome(await traffic.stopped())
    lost, after = found.failed + found.broken, f"another tenant's adapter {foreign.status}, base {plain.status}"
    text = f"{lost} of {found.sent} failed; then {after}"
    good = not lost and (foreign.status, plain.status) == (403, 200)
    return [Row(what, good, text)]
