"""Tokens, answers, and the rules that this package keeps."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_mock.tokens import Answer, encode, from_ids, render, to_ids

PACKAGE = Path(__file__).parents[2] / "runtime_images/mock/aibrix_mock"


@given(st.text(max_size=50))
def test_ids_and_bytes_are_the_same_tokens(text: str) -> None:
    data = encode(text)
    assert len(data) % 4 == 0 and from_ids(to_ids(data)) == data
    assert data.rstrip(b"\0") == text.encode("utf-8", "surrogatepass").rstrip(b"\0")


@given(st.text(max_size=50), st.text(max_size=50))
def test_a_turn_s_tokens_stay_in_the_next_one(first: str, second: str) -> None:
    turns = [("user", first)]
    prompt = render(turns)
    answer = Answer(1, prompt).data(0, 9)
    longer = render([*turns, ("assistant", answer.decode()), ("user", second)])
    assert longer.startswith(prompt + answer)


@given(st.integers(0, 60), st.integers(0, 60))
def test_an_answer_does_not_depend_on_how_it_is_read(cut: int, end: int) -> None:
    once, twice = Answer(7, b"abcd", "fr"), Answer(7, b"abcd", "fr")
    cut = min(cut, end)
    assert once.text(0, end) == twice.text(0, cut) + twice.text(cut, end)


def test_answers_differ_by_seed_prompt_and_adapter() -> None:
    texts = {
        Answer(seed, prompt, name).text(0, 200)
        for seed in (0, -1, 2**40)
        for prompt in (b"abcd", b"abce")
        for name in ("", "a", "n" * 90)
    }
    assert len(texts) == 18
    assert Answer(0, b"abcd", "fr-légal").text(0, 20).startswith("[fr-l?gal] ")


@pytest.mark.parametrize(("stops", "found"), [(["zzz"], None), (["e", "the"], "e")])
def test_stops(stops: list[str], found: str | None) -> None:
    answer = Answer(0, b"abcd")
    text = answer.text(0, 200)
    result = answer.find(stops, 200, 3)
    if found is None:
        assert result is None
    else:
        assert result == (text.index(found, 12), found)
    assert answer.find(["x" * 5000], 200, 0) is None


def test_only_the_kernel_s_policies_are_imported() -> None:
    for file in PACKAGE.glob("*.py"):
        text = file.read_text("utf-8")
        tree = ast.parse(text)
        assert len(text.splitlines()) <= 400 and (ast.get_docstring(tree) or not text), file
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aibrix_compile"):
                assert node.module.startswith("aibrix_compile.policy"), file


def test_the_core_needs_no_server_and_no_clock() -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import aibrix_mock.core;"
        "print(sorted({'asyncio', 'starlette', 'uvicorn', 'prometheus_client', 'random', 'socket'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(PACKAGE.parent), str(PACKAGE.parents[2])]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
