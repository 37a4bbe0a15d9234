"""The index of prefixes against a plain model of it: sets of blocks for each replica, in the order of their use."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aibrix_compile.policy.prefixes import PrefixIndex


def index(replicas: int, blocks: int) -> PrefixIndex:
    found = PrefixIndex()
    for replica in range(replicas):
        found.admit(replica, blocks)
    return found


def test_the_longest_prefix_of_each_replica() -> None:
    found = index(3, 100)
    found.remember(0, (1, 2, 3, 4))
    found.remember(1, (1, 2, 9))
    assert found.match((1, 2, 3, 4, 5), [0, 1, 2]) == [4, 2, 0]
    assert found.match((1, 2, 3, 4, 5), [2, 0]) == [0, 4]
    assert found.match((7,), [0, 1, 2]) == [0, 0, 0]
    assert found.match((), [0, 1]) == [0, 0]


def test_a_block_counts_only_after_all_blocks_before_it() -> None:
    found = index(1, 100)
    found.remember(0, (2, 3))
    assert found.match((1, 2, 3), [0]) == [0]


def test_what_was_used_least_recently_goes_first_and_a_chain_from_its_end() -> None:
    found = index(1, 4)
    found.remember(0, (1, 2, 3, 4))
    found.remember(0, (8, 9))
    assert found.held(0) == 4
    assert found.match((8, 9), [0]) == [2] and found.match((1, 2, 3, 4), [0]) == [2]


def test_a_restarted_replica_has_nothing() -> None:
    found = index(2, 10)
    found.remember(0, (1, 2))
    found.remember(1, (1, 2))
    found.forget(0)
    assert found.match((1, 2), [1]) == [2]
    found.admit(0, 10)
    assert found.match((1, 2), [0, 1]) == [0, 2]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(0, 12), min_size=1, max_size=6, unique=True), st.booleans()),
        max_size=40,
    ),
    st.lists(st.integers(0, 12), min_size=1, max_size=6, unique=True),
)
def test_it_is_what_a_plain_model_is(steps: list[tuple[int, list[int], bool]], asked: list[int]) -> None:
    found, model = index(3, 8), {replica: list[int]() for replica in range(3)}
    for replica, blocks, restart in steps:
        if restart:
            found.admit(replica, 8)
            model[replica] = []
            continue
        found.remember(replica, blocks)
        kept = [one for one in model[replica] if one not in blocks] + blocks[::-1]
        model[replica] = kept[max(0, len(kept) - 8) :]
    expected = []
    for replica in range(3):
        depth = 0
        while depth < len(asked) and asked[depth] in model[replica]:
            depth += 1
        expected.append(depth)
    assert found.match(asked, [0, 1, 2]) == expected
    assert [found.held(replica) for replica in range(3)] == [len(model[replica]) for replica in range(3)]
