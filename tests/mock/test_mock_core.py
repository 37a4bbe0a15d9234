"""The mock's scheduler, without a server: what is in a step, how long it takes, who waits and who is thrown out."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrix_compile.policy.profile import TABLE, Profile, decode_ms, step_ms
from aibrix_mock.adapters import Adapter, HostCache
from aibrix_mock.core import EngineCore, Limits, Request
from aibrix_mock.tokens import Answer, encode, render

H100 = TABLE["h100/8b"]
LIMITS = Limits(max_model_len=4096, max_num_seqs=8, max_num_batched_tokens=512, block_size=16, num_gpu_blocks=1000)


def make(name: str, tokens: int, limit: int = 4, adapter: Adapter | None = None, text: str = "") -> Request:
    """Prompts of different names share no block unless they begin with the same `text`."""
    prompt = encode((text + name * tokens * 4)[: tokens * 4])
    return Request(name, prompt, Answer(0, prompt, adapter.name if adapter else ""), limit, "length", adapter)


def step(core: EngineCore) -> float:
    start = core.now
    assert core.begin(start) is not None
    core.finish()
    return (core.now - start) * 1000


def run(core: EngineCore, check: Callable[[], None] = lambda: None) -> None:
    for _ in range(100_000):
        if not core.unfinished:
            return
        assert core.begin(core.now) is not None
        check()
        core.finish()
    raise AssertionError("it never ends")


def test_one_request_takes_what_the_profile_says() -> None:
    core, one = EngineCore(H100, LIMITS), make("a", 100, limit=11)
    core.add(one, 0.0)
    assert step(core) == pytest.approx(step_ms(H100, 0, 0, [(100, 0)]))
    assert (one.generated, one.first_at) == (1, core.now)
    started = core.now
    run(core)
    assert (core.now - started) * 1000 == pytest.approx(decode_ms(H100, 1, 101, 10))
    assert (one.generated, one.finished, core.pool.usage) == (11, "length", 0)


def test_a_long_prompt_is_read_in_chunks_beside_decodes() -> None:
    core, short, long = EngineCore(H100, LIMITS), make("s", 10, limit=50), make("l", 1200)
    core.add(short, 0.0)
    step(core)
    core.add(long, core.now)
    times = [step(core) for _ in range(3)]
    assert long.computed == 1200 and long.generated == 1 and short.generated == 4
    # each step decodes one token of the short one and fills the budget of 512 with 511 of the long one
    assert times[0] == pytest.approx(step_ms(H100, 1, 11, [(511, 0)]))
    assert times[1] == pytest.approx(step_ms(H100, 1, 12, [(511, 511)]))
    assert times[2] == pytest.approx(step_ms(H100, 1, 13, [(178, 1022)]))


def test_requests_are_admitted_in_order_up_to_the_batch() -> None:
    core = EngineCore(H100, replace(LIMITS, max_num_seqs=2))
    requests = [make(name, 10, limit=3) for name in "abcd"]
    for request in requests:
        core.add(request, 0.0)
    step(core)
    assert [r.name for r in core.running] == ["a", "b"] and [r.name for r in core.waiting] == ["c", "d"]
    step(core)
    step(core)
    assert [r.finished for r in requests] == ["length", "length", "", ""]
    step(core)
    assert [r.name for r in core.running] == ["c", "d"]


def test_a_prompt_waits_until_all_of_it_fits() -> None:
    core = EngineCore(H100, replace(LIMITS, num_gpu_blocks=100, max_model_len=1600))
    core.add(make("a", 1000, limit=2), 0.0)
    core.add(make("b", 1000, limit=2), 0.0)  # 63 of the 100 blocks are the first one's
    core.add(make("c", 16, limit=2), 0.0)  # would fit, but nobody overtakes
    for _ in range(2):
        step(core)
    assert [r.name for r in core.running] == ["a"] and core.deferred == 0
    run(core)
    assert core.stats.preemptions == 0


def test_when_blocks_run_out_the_last_one_is_preempted_and_recomputed() -> None:
    core = EngineCore(H100, replace(LIMITS, num_gpu_blocks=40, max_model_len=640, enable_prefix_caching=False))
    first, second = make("a", 300, limit=100), make("b", 300, limit=100)  # 19 blocks each, 25 with their answers
    core.add(first, 0.0)
    core.add(second, 0.0)
    usages = []
    run(core, lambda: usages.append(core.pool.usage))
    assert (first.preemptions, second.preemptions, core.stats.preemptions) == (0, 1, 1)
    assert (first.generated, second.generated) == (100, 100)
    assert max(usages) == 1 and core.pool.usage == 0
    assert core.stats.preempted.counts[0] == 2  # none and one share the first bucket, as in vLLM


def test_a_shared_beginning_is_read_once() -> None:
    core = EngineCore(H100, LIMITS)
    core.add(make("a", 200, text="x" * 600), 0.0)
    run(core)
    again = make("b", 200, text="x" * 600)
    core.add(again, core.now)
    taken = step(core)
    assert again.cached == 144  # 150 tokens are the same: nine full blocks of 16
    assert taken == pytest.approx(step_ms(H100, 0, 0, [(56, 144)]))
    run(core)
    assert (core.stats.prefix_queries, core.stats.prefix_hits, core.stats.cached_tokens) == (400, 144, 144)
    assert core.stats.computed.total == 200 + 56


def test_the_last_token_is_always_computed() -> None:
    core = EngineCore(H100, LIMITS)
    for index in range(2):
        request = make("a", 160)
        core.add(request, core.now)
        run(core)
        assert request.cached == (0, 144)[index]


def test_two_with_one_prompt_share_it_in_the_same_step() -> None:
    core, one, two = EngineCore(H100, LIMITS), make("a", 160), make("a", 160)
    core.add(one, 0.0)
    core.add(two, 0.0)
    assert step(core) == pytest.approx(step_ms(H100, 0, 0, [(160, 0), (16, 144)]))
    assert core.pool.usage == pytest.approx(11 / 1000)


def test_an_answer_is_in_the_cache_for_the_next_turn() -> None:
    core, turns = EngineCore(H100, LIMITS), [("user", "Which way is the sea?")]
    prompt = render(turns)
    first = Request("1", prompt, Answer(0, prompt), 100)
    core.add(first, 0.0)
    run(core)
    turns += [("assistant", first.answer.text(0, 100)), ("user", "And how far?")]
    second = Request("2", render(turns), Answer(0, render(turns)), 1)
    core.add(second, core.now)
    run(core)
    assert second.cached == (first.prompt_tokens + 99) // 16 * 16


def test_adapters_and_the_base_model_share_nothing() -> None:
    core = EngineCore(H100, replace(LIMITS, max_loras=2), HostCache(2, lambda adapter: None))
    for adapter in (None, Adapter("a", "/a"), Adapter("b", "/b"), Adapter("a", "/a2")):
        request = make("same", 160, adapter=adapter)
        core.add(request, core.now)
        run(core)
        assert request.cached == 0


def test_content_that_was_used_long_ago_goes_first() -> None:
    core = EngineCore(H100, replace(LIMITS, num_gpu_blocks=30, max_model_len=480))
    for name in ("a", "b", "a", "c"):  # 10 blocks each and one for the answer; `a` is used again before `c` needs room
        core.add(make(name, 160, limit=2), core.now)
        run(core)
    kept = []
    for name in ("a", "b"):
        request = make(name, 160, limit=2)
        core.add(request, core.now)
        run(core)
        kept.append(request.cached)
    assert kept[0] == 144 and kept[1] < 144


def test_beginnings_are_kept_longest() -> None:
    core = EngineCore(H100, replace(LIMITS, num_gpu_blocks=30, max_model_len=480))
    for name, tokens in (("a", 160), ("b", 350)):  # 11 blocks, then 22: three of those of `a` go, from its end
        core.add(make(name, tokens, limit=2), core.now)
        run(core)
    again = make("a", 160)
    core.add(again, core.now)
    run(core)
    assert again.cached == 128


def test_cached_blocks_that_nobody_holds_are_not_free_twice() -> None:
    core = EngineCore(H100, replace(LIMITS, num_gpu_blocks=40, max_model_len=640))
    core.add(make("a", 160, limit=1), 0.0)
    run(core)
    core.add(make("b", 400, limit=9), core.now)  # 25 blocks of 40; ten of the other 15 hold what `a` was
    step(core)
    longer = make("a", 320, limit=1)  # 20 blocks: ten are there, ten more would need the same 15
    core.add(longer, core.now)
    step(core)
    assert longer in core.waiting
    run(core)
    assert longer.cached == 160


def test_no_prefix_caching() -> None:
    core = EngineCore(H100, replace(LIMITS, enable_prefix_caching=False))
    for _ in range(2):
        request = make("a", 160)
        core.add(request, core.now)
        run(core)
    assert request.cached == 0 and core.stats.prefix_queries == 320


def test_more_adapters_than_slots_take_turns() -> None:
    adapters = [Adapter(name, f"/{name}") for name in "xyz"]
    core = EngineCore(H100, replace(LIMITS, max_loras=2, max_num_seqs=5), HostCache(3, lambda adapter: None))
    requests = [make(f"{adapter.name}{i}", 16, limit=3, adapter=adapter) for adapter in adapters for i in range(2)]
    for request in (*requests, make("base", 16, limit=3), make("last", 16, limit=3)):
        core.add(request, 0.0)
    step(core)
    assert [r.name for r in core.running] == ["x0", "x1", "y0", "y1", "base"]  # the base model needs no slot
    assert core.deferred == 2 and [r.name for r in core.waiting] == ["z0", "z1", "last"]
    assert core.adapters == {"x": 2, "y": 2, "z": 2}
    run(core)
    assert core.deferred == 0 and core.adapters == {} and all(r.finished for r in requests)


def test_host_memory_keeps_what_was_used_last() -> None:
    host = HostCache(2, lambda adapter: None)
    one, two, three = (Adapter(name, f"/{name}") for name in ("one", "two", "three"))
    host.put(one)
    host.put(two)
    assert host.use([one]) == 0
    host.put(three)
    assert host.names == ("one", "three")
    assert host.use([two, three]) == 1 and host.names == ("two", "three")


def test_an_adapter_that_host_memory_dropped_is_read_again() -> None:
    reads: list[str] = []
    host = HostCache(1, lambda adapter: reads.append(adapter.name))
    one, two = Adapter("one", "/1"), Adapter("two", "/2")
    host.put(one)
    host.put(two)
    core = EngineCore(H100, LIMITS, host)
    core.add(make("a", 16, limit=2, adapter=one), 0.0)
    assert step(core) == pytest.approx(step_ms(H100, 0, 0, [(16, 0)]) + 15)
    assert step(core) < 15
    assert reads == ["one"] and host.names == ("one",)


def test_an_aborted_request_leaves_at_once() -> None:
    core = EngineCore(H100, replace(LIMITS, max_num_seqs=1))
    running, waiting = make("a", 100, limit=100), make("b", 100, limit=100)
    core.add(running, 0.0)
    core.add(waiting, 0.0)
    core.begin(0.0)
    core.abort(running)  # in the middle of a step
    core.abort(waiting)
    assert (core.pool.usage, core.unfinished, running.finished) == (0, 0, "abort")
    core.finish()
    assert running.generated == 0 and core.stats.finished["abort"] == 2
    core.abort(running)
    assert core.stats.finished["abort"] == 2 and core.begin(core.now) is None


def test_times_in_the_histograms() -> None:
    core = EngineCore(H100, replace(LIMITS, max_num_seqs=1))
    core.add(make("a", 100, limit=5), 0.0)
    core.add(make("b", 100, limit=5), 0.0)
    run(core)
    stats = core.stats
    prefill, decode = step_ms(H100, 0, 0, [(100, 0)]) / 1000, decode_ms(H100, 1, 101, 4) / 1000
    assert stats.first_token.total == pytest.approx(3 * prefill + decode)  # the second one waited for all of the first
    assert stats.queued.total == pytest.approx(prefill + decode)
    assert stats.decode.total == pytest.approx(2 * decode) == pytest.approx(stats.between_tokens.total)
    assert stats.whole.total == pytest.approx(stats.queued.total + stats.inference.total)
    assert sum(stats.between_tokens.counts) == 8 and sum(stats.iteration.counts) == 10
    assert (stats.prompt_tokens, stats.generated_tokens, stats.finished["length"]) == (200, 10, 2)


FREE = Profile("free", 1.0, 0.0, 0.0, 0.0, 16 * 40, "test", "none", step_ms=0.0, sequence_ms=0.0)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.integers(1, 60), st.integers(0, 3), st.floats(0, 0.05), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from([7, 64, 512]),
    st.booleans(),
)
def test_whatever_comes_everything_ends_and_nothing_leaks(
    arrivals: list[tuple[int, int, int, float, bool]], budget: int, caching: bool
) -> None:
    limits = Limits(640, 4, budget, 16, 40, caching, max_loras=1)
    core = EngineCore(FREE, limits, HostCache(1, lambda adapter: None))
    requests, aborted = [], []
    for index, (tokens, limit, who, _, drop) in enumerate(arrivals):
        adapter = Adapter(f"l{who}", f"/{who}") if who else None
        requests.append(make(f"{index % 3}", tokens, limit, adapter))
        if drop:
            aborted.append(requests[-1])
    times = [a[3] for a in arrivals]

    def check() -> None:
        planned = core._plan
        assert sum(chunk for _, chunk in planned) <= budget
        assert len(core.running) <= 4 and len({r.adapter.name for r, _ in planned if r.adapter}) <= 1
        assert core.pool.free >= 0
        assert all(len(r.blocks) * 16 >= r.computed for r in core.running)
        assert all(not r.blocks for r in requests if r not in core.running)
        live = [r for r in aborted if r in core.running or r in core.waiting]
        if live and core.now > 0.02:
            core.abort(live[0])

    for request, at in sorted(zip(requests, times, strict=True), key=lambda pair: pair[1]):
        while core.unfinished and core.now < at:
            assert core.begin(core.now) is not None
            check()
            core.finish()
        core.add(request, at)
    run(core, check)
    assert all(r.finished == "abort" or r.generated == r.limit for r in requests)
    assert core.pool.usage == 0 and core.adapters == {}
    assert sum(core.stats.finished.values()) == len(requests)


def test_equal_arrivals_give_equal_results() -> None:
    def once() -> list[tuple[float, float, str]]:
        core = EngineCore(H100, replace(LIMITS, num_gpu_blocks=60, max_model_len=900))
        requests = [make(str(i % 4), 50 + 13 * i, limit=20 + i) for i in range(12)]
        for request in requests:
            core.add(request, 0.0)
        run(core)
        return [(r.first_at, r.last_at, r.answer.text(0, r.generated)) for r in requests]

    assert once() == once()
