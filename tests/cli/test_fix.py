"""`check --fix`: the characters of a fix change, and no other byte of any file."""

import json
import stat
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.diagnostics import Diagnostic, Fix, Severity, Span, UsageError
from aibrix_compile.fixes import Fixer, applied, replaceable
from tests.cli import MINIMAL, project, run, write

WRONG = MINIMAL.replace("maxModelLen", "maxModelLenn").replace("nvidia-l4", "nvidia-l44")


def fix(line: int, start: int, end: int, text: str, *, file: str = "a", end_line: int = 0) -> Fix:
    return Fix(Span(file, line, start, end_line or line, end), text)


def check(folder: Path, *arguments: str | Path, ordinary: bool = False) -> subprocess.CompletedProcess[str]:
    return run("check", "--fix", *arguments, cwd=folder, ordinary=ordinary)


# --- the core


@pytest.mark.parametrize(
    ("text", "fixes", "wanted"),
    [
        ("a: 1\nb: 2\n", [fix(2, 4, 5, "three")], ("a: 1\nb: three\n", 1)),
        ("a: 1\r\nb: 2\r\n", [fix(1, 4, 5, "x"), fix(2, 4, 5, "y")], ("a: x\r\nb: y\r\n", 2)),
        ("a: 1", [fix(1, 4, 5, "2")], ("a: 2", 1)),
        ("é𝄞: 1 # é\n", [fix(1, 5, 6, "ü")], ("é𝄞: ü # é\n", 1)),
        ("abcdef", [fix(1, 3, 5, "X"), fix(1, 1, 4, "Y"), fix(1, 5, 7, "Z")], ("YdZ", 2)),  # the first in the text
        ("abc", [fix(1, 1, 3, "X"), fix(1, 1, 3, "Y")], ("Xc", 1)),  # the first given
        ("abc", [fix(1, 2, 2, "-"), fix(1, 2, 2, "+"), fix(1, 2, 3, "B")], ("a-Bc", 2)),
        ("ab\ncd\n", [fix(1, 2, 2, "X", end_line=2)], ("aXd\n", 1)),
        ("abc", [fix(1, 1, 4, "abc")], ("abc", 0)),
        ("", [fix(1, 1, 1, "x")], ("x", 1)),
        ("a\nb", [fix(1, 1, 3, "x"), fix(3, 1, 2, "x"), fix(2, 1, 3, "x"), fix(1, 0, 1, "x")], ("a\nb", 0)),
        ("ab", [fix(1, 2, 1, "x")], ("ab", 0)),
    ],
)
def test_applied(text: str, fixes: list[Fix], wanted: tuple[str, int]) -> None:
    assert applied(text, fixes) == wanted


TEXTS = st.text(st.sampled_from("ab#é𝄞 \t\r\n\u2028"), max_size=60)
SPANS = st.tuples(st.integers(0, 6), st.integers(0, 12), st.integers(0, 6), st.integers(0, 12))


@given(TEXTS, st.lists(st.tuples(SPANS, st.text("xy\n", max_size=3)), max_size=6))
def test_nothing_outside_the_spans_changes(text: str, made: list[tuple[tuple[int, int, int, int], str]]) -> None:
    fixes = [Fix(Span("a", *span), new) for span, new in made]
    result, count = applied(text, fixes)
    lines = text.split("\n")
    touched = set()
    for one in fixes:
        span = one.span
        try:
            start, end = (
                sum(len(before) + 1 for before in lines[: line - 1]) + column - 1
                for line, column in ((span.line, span.column), (span.end_line, span.end_column))
                if line and column and column - 1 <= len(lines[line - 1])
            )
        except (ValueError, IndexError):
            continue
        touched |= set(range(start, end))
    kept = "".join(c for at, c in enumerate(text) if at not in touched)
    rest = iter(result)
    assert all(c in rest for c in kept), "what no span covers stays, in its order"
    assert count or result == text
    assert count <= len(fixes)
    assert len(result) <= len(text) + sum(len(one.text) for one in fixes)


@given(TEXTS, st.data())
def test_a_fix_is_exactly_its_span(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    ends = [(text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1) for at in (start, end)]
    assert applied(text, [Fix(Span("a", *ends[0], *ends[1]), "NEW")])[0] == text[:start] + "NEW" + text[end:]


def test_what_can_be_replaced() -> None:
    text = "a: one\nb: 'two'\nc: \"x\\ty\"\nd: |\n  e\n"
    assert replaceable(text, Span("a", 1, 4, 1, 7), "one")
    assert replaceable(text, Span("a", 2, 4, 2, 9), "two")
    assert not replaceable(text, Span("a", 3, 4, 3, 10), "x\ty")
    assert not replaceable(text, Span("a", 4, 4, 4, 5), "e\n")
    assert not replaceable(text, Span("a", 9, 1, 9, 2), "one")
    assert not replaceable(text, Span("a", 1, 4, 1, 7), 1)


# --- files


def test_mistakes_are_corrected_until_none_is_left(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": WRONG.replace("nvidia-l44", "nvidia-l40ss").replace("16384", "16777216")})
    done = check(tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert (
        done.stderr == "chat.yaml: 3 fixes\nok: 1 service in 1 environment\n"
    )  # the length is judged once it has a name
    assert (tmp_path / "chat.yaml").read_text("utf-8") == MINIMAL.replace("nvidia-l4", "nvidia-l40s").replace(
        "16384", "131072"
    )


def test_without_the_option_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": WRONG})
    assert run("check", cwd=tmp_path).returncode == 1
    assert (tmp_path / "chat.yaml").read_text("utf-8") == WRONG


def test_nothing_to_fix(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL})
    before = (tmp_path / "chat.yaml").stat()
    done = check(tmp_path)
    assert (done.returncode, done.stderr) == (0, "ok: 1 service in 1 environment\n")
    after = (tmp_path / "chat.yaml").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n   \n"])
def test_every_other_byte_stays(tmp_path: Path, mark: bytes, newline: str, last: str) -> None:
    text = (
        "# é 𝄞  trailing   \n"
        "apiVersion:   serving.aibrix.ai/v1alpha1\t# tab\n"
        "kind: ModelService\n"
        "\n   \n"
        "metadata: {  name : chat , }\n"
        "spec:\n"
        "    model: { uri: hf://meta-llama/Llama-3.1-8B-Instruct }   # é\n"
        "    engine: { name: vllm, version: '0.32.0', env: {NOTE: \"é𝄞 # no\"}, 'maxModelLenn' :   16384 }\n"
        '    pools: [ {accelerator: "nvidia-l40ss" ,replicas: 2} ] # nvidia-l40ss'
    )
    raw = mark + (text + last).replace("\n", newline).encode()
    wanted = raw.replace(b"'maxModelLenn'", b"maxModelLen").replace(b'"nvidia-l40ss"', b"nvidia-l40s")
    (tmp_path / "chat.yaml").write_bytes(raw)
    done = check(tmp_path)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "chat.yaml").read_bytes() == wanted
    assert done.stderr.startswith("chat.yaml: 2 fixes\n")
    assert [path.name for path in tmp_path.iterdir()] == ["chat.yaml"]


def test_odd_line_ends(tmp_path: Path) -> None:
    text = MINIMAL.replace("metadata", "# a\u2028# b\x85# c\nmetadata").replace("nvidia-l4", "nvidia-l40ss")
    (tmp_path / "chat.yaml").write_bytes(text.encode())
    check(tmp_path)
    assert (tmp_path / "chat.yaml").read_bytes() == text.replace("l40ss", "l40s").encode()


def test_what_remains_is_reported(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": WRONG.replace("replicas: 2", "replicas: two")})
    done = check(tmp_path, "--format", "json")
    assert done.returncode == 1
    assert [one["message"].partition(":")[0] for one in json.loads(done.stdout)] == ["spec.pools[0].replicas"]
    assert done.stderr == "chat.yaml: 2 fixes\n"


def test_remaining_warnings_are_denied(tmp_path: Path) -> None:
    write(tmp_path, {"aibrix.yaml": project(), "services/chat.yaml": WRONG})
    done = check(tmp_path, "--deny", "warnings")
    assert done.returncode == 1 and "AC217" in done.stdout and done.stderr == "services/chat.yaml: 2 fixes\n"


def test_only_the_files_that_the_fixes_are_in(tmp_path: Path) -> None:
    overlay = "apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\nmetadata: {name: chat}\nspec: {pools: [{name: gpu, accelerator: nvidia-l44}]}\n"
    service = MINIMAL.replace("{accelerator", "{name: gpu, accelerator")
    environments = "[{name: staging, namespace: s, overlays: [o.yaml]}, {name: prod, namespace: p}]"
    write(
        tmp_path,
        {"aibrix.yaml": project(environments=environments), "o.yaml": overlay, "services/chat.yaml": service},
    )
    done = run("check", "--fix", "chat.yaml", cwd=tmp_path / "services")
    assert done.returncode == 0, done.stdout
    assert done.stderr == "../o.yaml: 1 fix\n"
    assert "nvidia-l44" not in (tmp_path / "o.yaml").read_text("utf-8")
    assert (tmp_path / "services/chat.yaml").read_text("utf-8") == service


def test_a_path_chooses_what_is_fixed(tmp_path: Path) -> None:
    other = MINIMAL.replace("name: chat", "name: other, lables: {}").replace("{uri:", "{servedName: o, uri:")
    write(tmp_path, {"aibrix.yaml": project(), "services/chat.yaml": WRONG, "services/other.yaml": other})
    assert check(tmp_path, "services/chat.yaml").stderr == "services/chat.yaml: 2 fixes\n"
    assert (tmp_path / "services/other.yaml").read_text("utf-8") == other


def test_a_fix_that_gives_a_key_twice_is_left_out_and_the_others_are_not(tmp_path: Path) -> None:
    text = MINIMAL.replace("maxModelLen: 16384", "maxModelLenn: 8192, maxModelLen: 16384, imagge: docker.io/a/b:c")
    write(tmp_path, {"chat.yaml": text})
    done = check(tmp_path, "--format", "json")
    assert done.stderr == "chat.yaml: 1 fix\n"
    assert (tmp_path / "chat.yaml").read_text("utf-8") == text.replace("imagge", "image")
    assert [one["code"] for one in json.loads(done.stdout)] == ["AC101"]


def test_of_two_misspellings_of_one_key_one_is_corrected(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": MINIMAL.replace("maxModelLen:", "maxModelLenn: 8192, maxModelLne:")})
    done = check(tmp_path, "--format", "json")
    assert done.stderr == "chat.yaml: 1 fix\n"
    assert "{name: vllm, version: 0.32.0, maxModelLen: 8192, maxModelLne: 16384}" in (tmp_path / "chat.yaml").read_text(
        "utf-8"
    )


@pytest.mark.parametrize(
    "written",
    [
        "|\n      nvidia-l44\n  ",
        ">-\n      nvidia-l44\n  ",
        '"nvidia-\\\n      l44"',
        "nvidia-l44\n      x",
        "&a nvidia-l44",
    ],
)
def test_a_span_that_is_not_the_whole_value_is_no_fix(tmp_path: Path, written: str) -> None:
    text = MINIMAL.replace(
        "[{accelerator: nvidia-l4, replicas: 2}]", f"\n  - replicas: 2\n    accelerator: {written}\n"
    )
    write(tmp_path, {"chat.yaml": text})
    done = check(tmp_path)
    assert done.returncode == 1
    assert (tmp_path / "chat.yaml").read_text("utf-8") == text


def test_mode_bits_stay(tmp_path: Path) -> None:
    write(tmp_path, {"chat.yaml": WRONG})
    (tmp_path / "chat.yaml").chmod(0o640)
    check(tmp_path)
    assert stat.S_IMODE((tmp_path / "chat.yaml").stat().st_mode) == 0o640


def test_a_read_only_file_stops_all_writing(tmp_path: Path) -> None:
    other = WRONG.replace("name: chat", "name: other").replace("{uri:", "{servedName: o, uri:")
    write(tmp_path, {"a.yaml": WRONG, "b.yaml": other})
    (tmp_path / "b.yaml").chmod(0o444)
    done = check(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "aibrix-compile: can not write b.yaml: the file is read-only\n"
    assert (tmp_path / "a.yaml").read_text("utf-8") == WRONG


def test_a_read_only_folder(tmp_path: Path) -> None:
    write(tmp_path, {"in/chat.yaml": WRONG})
    (tmp_path / "in").chmod(0o555)
    done = check(tmp_path, "in", ordinary=True)
    (tmp_path / "in").chmod(0o755)
    assert done.returncode == 2 and "can not write in/chat.yaml: permission denied" in done.stderr
    assert (tmp_path / "in/chat.yaml").read_text("utf-8") == WRONG


def test_a_link_inside_the_project_is_written_through(tmp_path: Path) -> None:
    write(tmp_path, {"aibrix.yaml": project(), "shared/chat.yaml": WRONG, "services/x": ""})
    (tmp_path / "services/chat.yaml").symlink_to("../shared/chat.yaml")
    done = check(tmp_path)
    assert done.stderr == "shared/chat.yaml: 2 fixes\n"
    assert (tmp_path / "services/chat.yaml").is_symlink() and not (tmp_path / "shared/chat.yaml").is_symlink()
    assert "nvidia-l44" not in (tmp_path / "shared/chat.yaml").read_text("utf-8")


def test_a_link_out_of_the_folder_is_not_written_through(tmp_path: Path) -> None:
    write(tmp_path, {"outside/chat.yaml": WRONG, "in/other.yaml": MINIMAL.replace("name: chat", "name: other")})
    (tmp_path / "in/chat.yaml").symlink_to(tmp_path / "outside/chat.yaml")
    done = check(tmp_path / "in", "--format", "json")
    assert done.returncode == 1 and done.stderr == ""
    assert {"AC101", "AC206"} <= {one["code"] for one in json.loads(done.stdout)}
    assert (tmp_path / "outside/chat.yaml").read_text("utf-8") == WRONG


def test_a_file_that_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path, {"a": "key: new\n"})
    one = Diagnostic("AC101", Severity.ERROR, "", Span("a", 1, 1, 1, 4), fix=fix(1, 1, 4, "kez"))
    with pytest.raises(UsageError, match="changed by somebody else"):
        Fixer(tmp_path).round({"a": "key: old\n"}, [one])
    assert (tmp_path / "a").read_text("utf-8") == "key: new\n"


def test_fixes_that_undo_each_other_end(tmp_path: Path) -> None:
    write(tmp_path, {"a": "one: 1\n"})
    fixer = Fixer(tmp_path)

    def turn(new: str) -> bool:
        text = (tmp_path / "a").read_text("utf-8")
        return fixer.round(
            {"a": text}, [Diagnostic("AC101", Severity.ERROR, "", fix(1, 1, 4, new).span, fix=fix(1, 1, 4, new))]
        )

    assert [turn("two"), turn("one"), turn("two")] == [True, False, False]
    assert (tmp_path / "a").read_text("utf-8") == "two: 1\n" and fixer.counts == {"a": 1}


def test_a_fix_that_breaks_the_syntax_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"a": "one: 1\ntwo: 2\nsix: 6\n"})
    texts = ["uno", "[", "sei"]
    found = [
        Diagnostic("AC101", Severity.ERROR, "", fix(line, 1, 4, new).span, fix=fix(line, 1, 4, new))
        for line, new in enumerate(texts, 1)
    ]
    assert Fixer(tmp_path).round({"a": "one: 1\ntwo: 2\nsix: 6\n"}, found)
    assert (tmp_path / "a").read_text("utf-8") == "uno: 1\ntwo: 2\nsei: 6\n"


def test_many_fixes_that_do_harm_take_no_time(tmp_path: Path) -> None:
    text = "".join(f"k{number}: v\n" for number in range(2000))
    write(tmp_path, {"a": text})
    fixes = [fix(n + 1, 1, len(f"k{n}") + 1, "same" if n % 2 else f"z{n}") for n in range(2000)]
    found = [Diagnostic("AC101", Severity.ERROR, "", one.span, fix=one) for one in fixes]
    start = time.monotonic()
    assert Fixer(tmp_path).round({"a": text}, found)
    assert time.monotonic() - start < 30
    assert (tmp_path / "a").read_text("utf-8").count("same:") == 1


def test_nothing_is_left_behind_by_a_replacement_that_can_not_be_made(tmp_path: Path) -> None:
    write(tmp_path, {"a": "one: 1\n"})
    found = [Diagnostic("AC101", Severity.ERROR, "", fix(1, 1, 4, "two").span, fix=fix(1, 1, 4, "two"))]
    (tmp_path / "a").unlink()
    with pytest.raises(UsageError, match="no such file"):
        Fixer(tmp_path).round({"a": "one: 1\n"}, found)
    assert list(tmp_path.iterdir()) == []
