"""Warnings that a comment waives where they stand, and comments that waive nothing."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aibrix_compile.diagnostics import CompileError
from aibrix_compile.yamlio import SourceFile, comments, decode, parse
from tests.cli import MINIMAL, project, run, write

MODEL = "  model: {uri: hf://meta-llama/Llama-3.1-8B-Instruct}\n"
BLOCK = "  model:{header}\n    uri: hf://meta-llama/Llama-3.1-8B-Instruct\n{above}    revision: {value}{after}\n"
WHY = "# aibrix: ignore[AC217] the vendor moves it"


def found(folder: Path, *arguments: str, command: str = "check") -> list[str]:
    """`code line:column message` of each finding."""
    more = ["-o", "deploy"] if command == "build" else []
    done = run(command, "--format", "json", *more, *arguments, cwd=folder)
    assert done.returncode in (0, 1), done.stderr
    text = done.stdout if command == "check" else done.stderr[: done.stderr.rindex("]") + 1]
    return [f"{one['code']} {one['line']}:{one['column']} {one['message']}" for one in json.loads(text)]


def in_project(folder: Path, service: str, **more: str) -> Path:
    return write(folder, {"aibrix.yaml": project(**more), "services/chat.yaml": service})


def with_model(text: str) -> str:
    return MINIMAL.replace(MODEL, text)


# --- what is waived


@pytest.mark.parametrize(
    "text",
    [
        MODEL.replace("\n", f" {WHY}\n"),
        f"  {WHY}\n{MODEL}",
        f"{WHY}\n{MODEL}",
        f"      {WHY}\n{MODEL}",
        f"  # why\n  {WHY}\n  # and more of why\n{MODEL}",
        MODEL.replace("\n", " # aibrix: ignore[AC211,AC217 , AC227] all of them\n"),
        MODEL.replace("\n", " #aibrix:ignore[AC217] close\n"),
        BLOCK.format(header="", above="", value="main", after=f" {WHY}"),
        BLOCK.format(header="", above=f"    {WHY}\n", value="main", after=""),
        BLOCK.format(header="", above="", value="'# main'", after=f" {WHY}"),
        BLOCK.format(header="", above="", value='"main\\\n      x"', after="").replace(
            "    revision", f"    {WHY}\n    revision"
        ),
        BLOCK.format(header="", above="", value=f"|- {WHY}\n      main", after=""),
        "  model: {\n    uri: hf://meta-llama/Llama-3.1-8B-Instruct,\n    " + WHY + "\n    revision: main,\n  }\n",
        "  model: { # no\n    uri: hf://meta-llama/Llama-3.1-8B-Instruct, revision: main " + WHY + "\n  }\n",
    ],
)
def test_a_warning_is_waived(tmp_path: Path, text: str) -> None:
    in_project(tmp_path, with_model(text))
    rest = [one for one in found(tmp_path) if not one.startswith("AC226")]
    assert rest == []


def test_check_and_build_alike(tmp_path: Path) -> None:
    in_project(tmp_path, with_model(MODEL.replace("\n", f" {WHY}\n")))
    assert run("check", "--deny", "warnings", cwd=tmp_path).returncode == 0
    done = run("build", "-o", "deploy", "--deny", "warnings", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "deploy/prod/chat").is_dir()


def test_crlf_and_a_byte_order_mark(tmp_path: Path) -> None:
    in_project(tmp_path, "")
    text = with_model(MODEL.replace("\n", f" {WHY}\n")).replace("\n", "\r\n")
    (tmp_path / "services/chat.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert found(tmp_path) == []


def test_an_overlay_and_the_service_each_have_their_own(tmp_path: Path) -> None:
    overlay = "apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\nmetadata: {name: chat}\nspec:\n  model: {revision: dev}"
    environments = "[{name: staging, namespace: s, overlays: [o.yaml]}, {name: prod, namespace: p}]"
    in_project(tmp_path, with_model(MODEL.replace("\n", f" {WHY}\n")), environments=environments)
    write(tmp_path, {"o.yaml": overlay + "\n"})
    assert [one[:9] for one in found(tmp_path)] == ["AC217 5:2"]
    write(tmp_path, {"o.yaml": f"{overlay} {WHY}\n"})
    assert found(tmp_path) == []
    assert found(tmp_path, "services/chat.yaml") == found(tmp_path, "o.yaml") == []


# --- what is no comment, or stands elsewhere


@pytest.mark.parametrize(
    "text",
    [
        BLOCK.format(header="", above="", value=f"'main {WHY}'", after=""),
        BLOCK.format(header="", above="", value=f'"main {WHY}"', after=""),
        BLOCK.format(header="", above="", value=f"|\n      main\n      {WHY}", after=""),
        BLOCK.format(header="", above="", value=f"main{WHY.replace(' ', '')}", after=""),
    ],
)
def test_text_is_no_comment(tmp_path: Path, text: str) -> None:
    in_project(tmp_path, with_model(text))
    codes = [one[:5] for one in found(tmp_path)]
    assert codes and "AC226" not in codes and "AC126" not in codes


@pytest.mark.parametrize(
    "text",
    [
        f"  {WHY}\n\n{MODEL}",
        f"{MODEL}  {WHY}\n",
        MODEL.replace("\n", " # see aibrix: ignore[AC217] the vendor moves it\n"),
        MODEL.replace("\n", " # aibrix: ignored[AC217] the vendor moves it\n"),
        MODEL.replace("\n", " # aibrix: ignore[AC211] the vendor moves it\n"),
    ],
)
def test_elsewhere_it_waives_nothing(tmp_path: Path, text: str) -> None:
    in_project(tmp_path, with_model(text))
    assert "AC217" in [one[:5] for one in found(tmp_path)]


def test_a_file_that_is_none_of_ours_is_not_read(tmp_path: Path) -> None:
    """The lock has comments too."""
    in_project(tmp_path, MINIMAL)
    write(tmp_path, {"aibrix.lock": "# aibrix: ignore[AC217]\nmodels: {}\n"})
    assert [one[:5] for one in found(tmp_path)] == ["AC217"]


# --- what is not allowed


@pytest.mark.parametrize(
    ("comment", "wanted"),
    [
        ("# aibrix: ignore[AC217]", "5:55 an ignore gives its reason"),
        ("# aibrix: ignore[AC217] --", "5:55 an ignore gives its reason"),
        ("# aibrix: ignore", "5:55 an ignore names its codes in brackets"),
        ("# aibrix: ignore AC217 why", "5:55 an ignore names its codes in brackets"),
        ("# aibrix: ignore[] why", "5:55 an ignore names its codes in brackets"),
        ("# aibrix: ignore[AC217 why", "5:55 an ignore names its codes in brackets"),
        ("# Aibrix : Ignore[AC217] why", "5:55 an ignore names its codes in brackets"),
        ("# aibrix: ignore[AC217, AC101] why", "5:79 AC101 can not be ignored"),
        ("# aibrix: ignore[AC217, AC001] why", "5:79 AC001 can not be ignored"),
        ("# aibrix: ignore[AC217, AC403] why", "5:79 AC403 can not be ignored"),
        ("# aibrix: ignore[AC217, AC501] why", "5:79 AC501 can not be ignored"),
        ("# aibrix: ignore[AC217, AC226] why", "5:79 AC226 can not be ignored"),
        ("# aibrix: ignore[AC217, AC126] why", "5:79 AC126 can not be ignored"),
        ("# aibrix: ignore[AC217, AC299] why", '5:79 there is no code "AC299"'),
        ("# aibrix: ignore[AC217, ac217] why", '5:79 there is no code "ac217"'),
        ("# aibrix: ignore[AC217, *] why", '5:79 there is no code "*"'),
    ],
)
def test_not_allowed(tmp_path: Path, comment: str, wanted: str) -> None:
    in_project(tmp_path, with_model(MODEL.replace("\n", f" {comment}\n")))
    errors = [one for one in found(tmp_path) if not one.startswith("AC217")]
    assert errors == [f"AC126 {wanted}"]
    done = run("build", "-o", "deploy", cwd=tmp_path)
    assert done.returncode == 1 and not (tmp_path / "deploy").exists()


def test_errors_are_never_waived(tmp_path: Path) -> None:
    text = MINIMAL.replace("nvidia-l4", "nvidia-l44").replace("2}]", "2}] # aibrix: ignore[AC206] we have it")
    in_project(tmp_path, text)
    assert [one for one in found(tmp_path) if not one.startswith("AC217")] == [
        'AC206 7:25 there is no accelerator "nvidia-l44"',
        "AC126 7:68 AC206 is an error here",
    ]


def test_columns_count_code_points(tmp_path: Path) -> None:
    text = MINIMAL.replace("16384}", "16384, env: {A: é𝄞}} # aibrix: ignore[AC227] x")
    in_project(tmp_path, text)
    assert "AC226 6:92 there is no AC227 to ignore here" in found(tmp_path)


# --- what is not needed


def test_unneeded(tmp_path: Path) -> None:
    text = f"  {WHY}\n\n{MODEL}".replace("[AC217]", "[AC217, AC227]")
    in_project(tmp_path, with_model(text))
    done = run("check", cwd=tmp_path)
    assert done.returncode == 0
    assert "help: move it to line 7, where AC217 is, or directly above; or remove it" in done.stdout
    assert done.stdout.count("AC226") == 2
    assert run("check", "--deny", "warnings", cwd=tmp_path).returncode == 1


def test_needed_in_one_environment_is_needed(tmp_path: Path) -> None:
    strict = "[{name: dev, namespace: d}, {name: prod, namespace: p, overlays: [o.yaml]}]"
    overlay = "apiVersion: serving.aibrix.ai/v1alpha1\nkind: ModelService\nmetadata: {name: chat}\nspec:\n  model: {revision: a09a35458c702b33eeacc393d103063234e8bc28}\n"
    in_project(tmp_path, with_model(MODEL.replace("\n", f" {WHY}\n")), environments=strict)
    write(tmp_path, {"o.yaml": overlay})
    assert found(tmp_path) == []
    assert found(tmp_path, "-e", "prod") == []  # not judged


def test_not_judged_while_something_is_wrong(tmp_path: Path) -> None:
    text = with_model(MODEL.replace("hf://meta-llama/Llama-3.1-8B-Instruct", "nowhere").replace("\n", f" {WHY}\n"))
    in_project(tmp_path, text)
    assert [one[:5] for one in found(tmp_path)] == ["AC111"]


def test_a_path_chooses_what_is_said(tmp_path: Path) -> None:
    in_project(tmp_path, with_model(MODEL.replace("\n", f" {WHY}\n")))
    other = MINIMAL.replace("name: chat", "name: other # aibrix: ignore[AC227] x\n ").replace(
        "{uri:", "{servedName: o, uri:"
    )
    write(tmp_path, {"services/other.yaml": other})
    assert found(tmp_path, "services/chat.yaml") == []
    assert [one[:5] for one in found(tmp_path)] == ["AC226", "AC217"]


def test_an_included_file(tmp_path: Path) -> None:
    service = with_model(MODEL.replace("\n", f" {WHY}\n")) + "  adapters: {include: [../more.yaml]}\n"
    in_project(tmp_path, service)
    write(tmp_path, {"more.yaml": "adapters:\n  - {name: a, uri: s3://b/a, replicas: all} # aibrix: ignore[AC217] x\n"})
    assert found(tmp_path) == ["AC226 2:62 there is no AC217 to ignore here"]
    assert found(tmp_path, "services/chat.yaml") == found(tmp_path)


def test_an_ignored_warning_is_not_fixed_and_comments_survive_fixes(tmp_path: Path) -> None:
    text = with_model(MODEL.replace("\n", f" {WHY}\n"))
    in_project(tmp_path, text.replace("nvidia-l4", "nvidia-l40ss"))
    done = run("check", "--fix", "--deny", "warnings", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "services/chat.yaml").read_text("utf-8") == text.replace("nvidia-l4", "nvidia-l40s")


# --- the scanner


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a: 1 # x", [(1, 6, "# x")]),
        ("#\n  # é  \r\n", [(1, 1, "#"), (2, 3, "# é")]),
        ('a: \'x # no\' # c\nb: "\\" # no" # d\n', [(1, 13, "# c"), (2, 14, "# d")]),
        ("a: x#no # c\n", [(1, 9, "# c")]),
        ("é𝄞: 1 # c\n", [(1, 7, "# c")]),
        ("a: | # header\n  t # no\n\n  # no\n# after\nb: 1\n", [(1, 6, "# header"), (5, 1, "# after")]),
        ("a: >2- # h\n    # no\n # yes\n", [(1, 8, "# h"), (3, 2, "# yes")]),
        ("a: |\n", []),
        ("a: |#x\n", [(1, 5, "#x")]),  # libyaml does not ask for a space
        ("a: [1, # f\n  # g\n  'x\n  # no\n  ' # h\n  ]\n", [(1, 8, "# f"), (2, 3, "# g"), (5, 5, "# h")]),
        ("a: multi\n  line # c\n", [(2, 8, "# c")]),
        ("%YAML 1.1 # d\n--- # s\na: 1\n... # e\n# f\n", [(1, 11, "# d"), (2, 5, "# s"), (4, 5, "# e"), (5, 1, "# f")]),
        ("a: &x # anchor\n  1\nb: *x # alias\n", [(1, 7, "# anchor"), (3, 7, "# alias")]),
        ("? a # k\n: # v\n  - 1\n", [(1, 5, "# k"), (2, 3, "# v")]),
        ("# a\u2028# b\n# c\n", [(1, 1, "# a"), (1, 5, "# b"), (2, 1, "# c")]),
        ("", []),
    ],
)
def test_comments(text: str, wanted: list[tuple[int, int, str]]) -> None:
    assert comments(SourceFile("a", text)) == wanted


@given(st.text(st.sampled_from("ab #'\"|>-:[]{},&*?\n\r \té𝄞"), max_size=40))
def test_comments_can_be_blanked_without_changing_what_is_read(text: str) -> None:
    try:
        source = decode(text.encode(), "a")
        before, _ = parse(source)
    except CompileError:
        return
    blank = source.text.split("\n")
    for line, column, comment in comments(source):
        row = blank[line - 1]
        assert row[column - 1 :].startswith(comment)
        blank[line - 1] = row[:column] + "x" * (len(comment) - 1) + row[column - 1 + len(comment) :]
    after, _ = parse(SourceFile("a", "\n".join(blank)))
    assert [one.value for one in before] == [one.value for one in after]


def test_many_comments_take_no_time() -> None:
    for text in ("\r#a" * 400_000, "#a\n" * 400_000, "#" * 1_000_000, "# " * 500_000, "a: 1 #b\n" * 100):
        assert comments(SourceFile("a", text))
