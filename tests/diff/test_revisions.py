"""Git revisions as folders: what is read, and what a tree can not do."""

import os
from pathlib import Path

import pytest

from aibrix_compile.diagnostics import UsageError
from aibrix_compile.revisions import repository
from aibrix_compile.yamlio import MAX_BYTES
from tests.cli import write
from tests.diff.repositories import committed, crafted, git


def extracted(folder: Path, commit: str, into: Path) -> dict[str, bytes]:
    found = repository(folder)
    assert found is not None
    project = found.extract(commit, "aibrix.yaml", into)
    return {
        path.relative_to(project).as_posix(): path.read_bytes() for path in sorted(project.rglob("*")) if path.is_file()
    }


def test_tracked_files_of_the_project_and_nothing_else(tmp_path: Path) -> None:
    files = {"llm/aibrix.yaml": "a", "llm/services/chat.yaml": "b", "other/secret.yaml": "c", ".gitignore": "*.key"}
    write(tmp_path / "r", files)
    commit = committed(tmp_path / "r")
    write(
        tmp_path / "r",
        {"llm/services/new.yaml": "untracked", "llm/private.key": "ignored", "llm/aibrix.yaml": "edited"},
    )
    expected = {"aibrix.yaml": b"a", "services/chat.yaml": b"b"}
    assert extracted(tmp_path / "r/llm", commit, tmp_path / "one") == expected
    assert extracted(tmp_path / "r/llm/services", commit, tmp_path / "two") == expected
    assert git(tmp_path / "r", "status", "--short") == "M llm/aibrix.yaml\n?? llm/services/new.yaml"


def test_without_a_project_the_current_folder_is_meant(tmp_path: Path) -> None:
    commit = committed(write(tmp_path / "r", {"a/chat.yaml": "1", "b/chat.yaml": "2"}))
    assert extracted(tmp_path / "r/a", commit, tmp_path / "one") == {"chat.yaml": b"1"}
    (tmp_path / "r/c").mkdir()
    assert extracted(tmp_path / "r/c", commit, tmp_path / "two") == {}


def test_revisions_and_what_is_none(tmp_path: Path) -> None:
    first = committed(write(tmp_path, {"x": "1"}))
    second = committed(write(tmp_path, {"x": "2"}))
    git(tmp_path, "tag", "-a", "v1", "-m", "x", first)
    found = repository(tmp_path)
    assert found is not None
    names = {"HEAD": second, "HEAD~1": first, "main": second, "v1": first, second[:8]: second}
    assert {name: found.commit(name) for name in names} == names
    for name in ("nope", "HEAD~9", "HEAD:x", "--upload-pack=x", "-h", "a\0b", "main..HEAD", "@{99}"):
        assert found.commit(name) is None, name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("main..dev", "write two arguments: aibrix-compile diff main dev"),
        ("main...", 'diff "$(git merge-base main HEAD)" HEAD'),
        ("dev", "there is origin/dev"),
        ("nope", "git log --all shows what there is"),
    ],
)
def test_an_unknown_revision_says_what_to_do(name: str, hint: str, tmp_path: Path) -> None:
    committed(write(tmp_path / "origin", {"x": "1"}))
    git(tmp_path / "origin", "branch", "dev")
    git(tmp_path, "clone", str(tmp_path / "origin"), "clone")
    found = repository(tmp_path / "clone")
    assert found is not None and hint in str(found.unknown(name))


def test_a_shallow_clone_says_so(tmp_path: Path) -> None:
    committed(write(tmp_path / "origin", {"x": "1"}))
    committed(tmp_path / "origin")
    git(tmp_path, "clone", "--depth", "1", f"file://{tmp_path}/origin", "clone")
    found = repository(tmp_path / "clone")
    assert found is not None and found.commit("HEAD~1") is None
    assert "fetch-depth: 0" in str(found.unknown("HEAD~1"))


def test_no_repository_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert repository(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="git is not installed"):
        repository(tmp_path)


def test_links_inside_are_kept_and_links_outside_are_not(tmp_path: Path) -> None:
    root = write(tmp_path / "r", {"p/aibrix.yaml": "a", "p/real.yaml": "b", "secret.yaml": "c", "p/folder/x.yaml": "d"})
    links = {
        "inside.yaml": "real.yaml",
        "deep/inside.yaml": "../real.yaml",
        "outside.yaml": "../secret.yaml",
        "absolute.yaml": "/etc/passwd",
        "twice.yaml": "outside.yaml",
        "parents": "folder/../..",
        "loop.yaml": "loop.yaml",
        "alias": "folder",
    }
    (root / "p/deep").mkdir()
    for name, target in links.items():
        (root / "p" / name).symlink_to(target)
    found = extracted(root / "p", committed(root), tmp_path / "out")
    assert {name for name in found if name in links} == {"inside.yaml", "deep/inside.yaml"}
    project = tmp_path / "out/p"
    kept = {name for name in links if (project / name).is_symlink()}
    assert kept == {"inside.yaml", "deep/inside.yaml", "alias", "loop.yaml", "twice.yaml"}
    assert all(Path(os.path.realpath(project / name)).is_relative_to(project.resolve()) for name in kept)


@pytest.mark.parametrize("name", ["..", ".", ".git", "../x", "/etc/x", "a/../../x"])
def test_a_path_that_leaves_the_folder_is_left_out(name: str, tmp_path: Path) -> None:
    committed(write(tmp_path / "r", {"x": "1"}))
    commit = crafted(tmp_path / "r", ("aibrix.yaml", "100644", b"a"), (name, "100644", b"evil"))
    before = {path.as_posix() for path in tmp_path.rglob("*") if ".git/" not in path.as_posix()}
    assert extracted(tmp_path / "r", commit, tmp_path / "out/deep/er") == {"aibrix.yaml": b"a"}
    after = {path.as_posix() for path in tmp_path.rglob("*") if ".git/" not in path.as_posix()}
    assert {Path(path).name for path in after - before} == {"out", "deep", "er", "aibrix.yaml"}


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Two entries of one name: a link out of the folder and a folder with a file."""
    outside = tmp_path / "outside"
    outside.mkdir()
    root = write(tmp_path / "r", {"x": "1"})
    committed(root)
    inner = git(root, "rev-parse", "HEAD^{tree}").encode()
    link, folder = ("d", "120000", str(outside).encode()), ("d", "40000", inner)
    for number, entries in enumerate(((link, folder), (folder, link))):
        with pytest.raises(UsageError, match="can not write out the files of"):
            extracted(root, crafted(root, *entries), tmp_path / f"out{number}")
    assert list(outside.iterdir()) == []


def test_submodules_are_not_followed(tmp_path: Path) -> None:
    root = write(tmp_path / "r", {"x": "1"})
    commit = committed(root).encode()
    found = crafted(root, ("aibrix.yaml", "100644", b"a"), ("sub", "160000", commit))
    assert extracted(root, found, tmp_path / "out") == {"aibrix.yaml": b"a"}


def test_a_file_that_is_too_large_for_a_spec_takes_no_room(tmp_path: Path) -> None:
    root = write(tmp_path / "r", {"aibrix.yaml": "a"})
    (root / "model.bin").write_bytes(b"x" * (MAX_BYTES + 5))
    (root / "fits.yaml").write_bytes(b"x" * MAX_BYTES)
    found = extracted(root, committed(root), tmp_path / "out")
    assert found["model.bin"] == b"\0" * (MAX_BYTES + 1) and found["fits.yaml"] == b"x" * MAX_BYTES
    assert (tmp_path / "out/model.bin").stat().st_blocks * 512 < 2**16


def test_names_in_any_encoding_and_with_any_character(tmp_path: Path) -> None:
    root = tmp_path / "r"
    names = [
        b"caf\xe9.yaml",
        "ü.yaml".encode(),
        b"tab\t.yaml",
        b"new\nline.yaml",
        b'quote".yaml',
        b" .yaml",
        b"-n.yaml",
    ]
    root.mkdir()
    for number, name in enumerate(names):
        (root / os.fsdecode(name)).write_text(str(number))
    found = extracted(root, committed(root), tmp_path / "out")
    assert {os.fsencode(name): content for name, content in found.items()} == {
        name: str(number).encode() for number, name in enumerate(names)
    }


def test_many_files_are_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aibrix_compile.revisions._CHUNK", 10)
    files = {f"{number}.yaml": "x" * (number % 13) for number in range(50)}
    commit = committed(write(tmp_path / "r", files))
    found = extracted(tmp_path / "r", commit, tmp_path / "out")
    assert found == {name: text.encode() for name, text in files.items()}


def test_a_project_of_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = committed(write(tmp_path / "r", {"a": "12345", "b": "12345"}))
    monkeypatch.setattr("aibrix_compile.revisions._MOST", 9)
    with pytest.raises(UsageError, match="holds more than"):
        extracted(tmp_path / "r", commit, tmp_path / "out")
