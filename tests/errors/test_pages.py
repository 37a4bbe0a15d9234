"""Every code has a page, and every page is true: its bad example gives its message, its good one gives nothing."""

import ast
import re
from contextlib import chdir
from pathlib import Path

import pytest

from aibrix_compile.cli import simulate
from aibrix_compile.cli.main import parser
from aibrix_compile.codes import TITLES, page
from aibrix_compile.compiler import compile_workspace
from aibrix_compile.diagnostics import CompileError, Diagnostic, Severity
from aibrix_compile.loading import load
from aibrix_compile.simulate.formats import read

PACKAGE = Path(__file__).parents[2] / "aibrix_compile"
PAGES = Path(__file__).parents[2] / "specs" / "errors"
EXECUTED = [code for code in TITLES if "\nCommand: none\n" not in page(code)]


def _section(text: str, name: str) -> str:
    (found,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return str(found)


def _findings(code: str, section: str, folder: Path) -> list[Diagnostic]:
    """Write the files of a section and compile them as the page says."""
    names = []
    for language, name, body in re.findall(r"^```(\w+) (\S+)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(
            _bytes(ast.parse(body, mode="eval").body) if language == "python" else body.encode()
        )
        names.append(name)
    if "\nCommand: trace\n" in page(code):
        return _walked(Path(names[0]), folder)
    if asked := re.search(r"\nCommand: (simulate .*)\n", page(code)):
        return _simulated(asked[1].split(), folder)
    paths = [] if "aibrix.yaml" in names else [Path("chat.yaml")]
    return compile_workspace(load(paths, folder), build="\nCommand: build\n" in page(code)).diagnostics


def _walked(trace: Path, folder: Path) -> list[Diagnostic]:
    try:
        with chdir(folder):
            assert list(read(trace))
    except CompileError as error:
        return list(error.diagnostics)
    return []


def _simulated(words: list[str], folder: Path) -> list[Diagnostic]:
    try:
        with chdir(folder):
            simulate.asked(parser().parse_args(words))
    except CompileError as error:
        return list(error.diagnostics)
    return []


def _bytes(node: ast.expr) -> bytes:
    """Literals, + and * of a bytes expression."""
    if isinstance(node, ast.Constant):
        return node.value  # type: ignore[return-value]
    assert isinstance(node, ast.BinOp)
    left, right = _bytes(node.left), _bytes(node.right)
    return left * right if isinstance(node.op, ast.Mult) else left + right  # type: ignore[operator]


def _line(one: Diagnostic) -> str:
    return f"{one.span.file}:{one.span.line}:{one.span.column} {one.code} {one.message}"


@pytest.mark.parametrize("code", EXECUTED)
def test_the_bad_example_gives_the_message(code: str, tmp_path: Path) -> None:
    found = _findings(code, _section(page(code), "Wrong"), tmp_path)
    (message,) = re.findall(r"```text\n(.*?)\n```", _section(page(code), "Message"), re.DOTALL)
    assert [_line(one) for one in found] == message.splitlines()
    assert code in [one.code for one in found]
    for one in found:
        assert one.hint or one.severity is Severity.WARNING, "an error says what to do"


@pytest.mark.parametrize("code", EXECUTED)
def test_the_good_example_gives_nothing(code: str, tmp_path: Path) -> None:
    assert [_line(one) for one in _findings(code, _section(page(code), "Right"), tmp_path)] == []


def test_every_code_has_a_page_with_its_title() -> None:
    assert sorted(path.stem for path in PAGES.iterdir()) == sorted(TITLES)
    for code, title in TITLES.items():
        assert page(code).startswith(f"# {code} {title}\n\n")


def test_codes_in_the_source_are_those_that_are_listed() -> None:
    used = {
        code
        for path in PACKAGE.rglob("*.py")
        if path.name != "codes.py"
        for code in re.findall(r"\"(AC\d{3})\"", path.read_text("utf-8"))
    }
    assert used == set(TITLES)


def test_pages_without_an_example_say_why() -> None:
    assert sorted(TITLES.keys() - set(EXECUTED)) == ["AC309", "AC506", "AC511"]
