"""A trace bent to another load: what changes, what stays, and that it stays a stream."""

from collections.abc import Iterator
from itertools import count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.simulate import trace as t
from aibrix_compile.simulate.trace import Request, Trace

THREE = (
    Request(0, 1000, 100, (0, 1), "a", 7),
    Request(1_000_000, 1100, 1, (0, 1, 2), "a", 7),
    Request(2_500_001, 512, 300, (0,), "", -1),
)


def of(*requests: Request, unit: int = 512) -> Trace:
    return Trace("test", lambda: iter(requests), unit, len(requests))


def endless() -> Trace:
    return Trace("endless", lambda: (Request(number, 10, 1, (), "", number // 3) for number in count()))


def test_faster_divides_times_and_nothing_else() -> None:
    bent = t.faster(of(*THREE), 3)
    assert [one.at for one in bent] == [0, 333_333, 833_334]
    assert [one[1:] for one in bent] == [one[1:] for one in THREE]
    assert (bent.length, bent.block_tokens, bent.name) == (3, 512, "test")


def test_resized_scales_prompts_with_their_blocks() -> None:
    bent = t.resized(of(*THREE), 0.5, 2)
    assert bent.block_tokens == 256
    assert list(bent) == [
        Request(0, 500, 200, (0, 1), "a", 7),
        Request(1_000_000, 550, 2, (0, 1, 2), "a", 7),
        Request(2_500_001, 256, 600, (0,), "", -1),
    ]


def test_resized_keeps_at_least_a_token() -> None:
    (one,) = t.resized(of(Request(0, 3, 3, (5,))), 1e-3, 1e-3)
    assert one == Request(0, 1, 1, (5,))


@given(
    st.lists(st.integers(1, 100_000), min_size=2, max_size=2),
    st.sampled_from([1, 16, 64, 512]),
    st.floats(0.001, 100),
)
def test_resized_blocks_cover_the_prompt_and_keep_what_is_shared(sizes: list[int], unit: int, factor: float) -> None:
    first, second = (Request(0, tokens, 1, tuple(range(-(-tokens // unit)))) for tokens in sorted(sizes))
    bent = t.resized(of(first, second, unit=unit), factor)
    for before, after in zip((first, second), bent, strict=True):
        assert len(after.blocks) == -(-after.input // bent.block_tokens)
        assert after.blocks == before.blocks[: len(after.blocks)]
        assert abs(after.input - before.input * factor) <= 1


@pytest.mark.parametrize(
    ("start", "end", "ats"),
    [
        (0.0, None, [0, 1_000_000, 2_500_001]),
        (1.0, None, [0, 1_500_001]),
        (0.5, 2.5, [500_000]),
        (1.0, 2.500001, [0]),
        (1.0, 2.500002, [0, 1_500_001]),
        (3.0, 4.0, []),
    ],
)
def test_window_has_its_start_and_not_its_end(start: float, end: float | None, ats: list[int]) -> None:
    assert [one.at for one in t.window(of(*THREE), start, end)] == ats


def test_a_walk_ends_where_the_window_or_the_limit_does() -> None:
    assert len(list(t.window(endless(), 0, 0.0001))) == 100
    assert [one.at for one in t.first(endless(), 3)] == [0, 1, 2]
    assert t.first(of(*THREE), 2).length == 2
    assert t.first(of(*THREE), 9).length == 3


def test_a_trace_is_walked_again() -> None:
    bent = t.sampled(t.faster(t.window(of(*THREE), 0, 3), 2), 0.5, seed=1)
    assert list(bent) == list(bent)


def test_sampled_keeps_whole_conversations() -> None:
    kept = list(t.sampled(t.first(endless(), 30_000), 0.25, seed=5))
    sessions = {one.session for one in kept}
    assert len(kept) == 3 * len(sessions)
    assert 2300 < len(sessions) < 2700
    other = {one.session for one in t.sampled(t.first(endless(), 30_000), 0.25, seed=6)}
    assert 400 < len(sessions & other) < 850, "another seed chooses others, independently"
    assert list(t.sampled(t.first(endless(), 300), 1.0, seed=5)) == list(t.first(endless(), 300))


def test_sampled_chooses_among_requests_without_a_conversation() -> None:
    def single() -> Iterator[Request]:
        return (Request(number, 1, 1) for number in range(10_000))

    assert 4800 < len(list(t.sampled(Trace("single", single), 0.5, seed=1))) < 5200


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: t.faster(of(), 0), "the rate can not be scaled by 0"),
        (lambda: t.faster(of(), float("nan")), "scaled by nan"),
        (lambda: t.faster(of(), 1e7), "scaled by 1e+07"),
        (lambda: t.resized(of(), -1), "the length of prompts can not be scaled by -1"),
        (lambda: t.resized(of(), 1, float("inf")), "the length of answers can not be scaled by inf"),
        (lambda: t.window(of(), 5, 5), "no window from 5 s to 5 s"),
        (lambda: t.window(of(), -1), "no window from -1 s to the end"),
        (lambda: t.window(of(), 0, float("nan")), "no window"),
        (lambda: t.first(of(), 0), "the first 0 requests are none"),
        (lambda: t.sampled(of(), 0, 1), "a share of 0"),
        (lambda: t.sampled(of(), 1.5, 1), "a share of 1.5"),
    ],
)
def test_what_is_no_load_is_refused_before_the_walk(call, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError) as caught:
        call()
    assert said in str(caught.value)


def test_counts_of_skipped_rows_pass_through() -> None:
    whole = of(*THREE)
    whole.skipped["why"] += 2
    assert t.first(t.faster(whole, 2), 1).skipped == {"why": 2}


def test_nothing_is_read_ahead() -> None:
    seen: list[int] = []

    def requests() -> Iterator[Request]:
        for number in count():
            seen.append(number)
            yield Request(number, 1, 1)

    walk = iter(t.resized(t.faster(Trace("watched", requests), 2), 2))
    assert len(list(islice(walk, 5))) == 5
    assert seen == [0, 1, 2, 3, 4]
