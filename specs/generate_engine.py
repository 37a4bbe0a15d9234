"""Writes what an engine release understands - its command line flags and its metrics - to the catalog.

Why it exists: `args` in a spec are checked against the engine version, and a list typed by hand is wrong by the next
release. Everything is read out of the release's source by `engine_reader.py`; a missing default means "none, or
decided at run time". No wheel is downloaded whole: an index serves byte ranges, and the Python files are a twentieth.

    python specs/generate_engine.py vllm 0.32.0 [--wheel FILE | --tree FOLDER] [--out FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from engine_reader import Metrics, Parser
from engine_source import Source

CATALOG = Path(__file__).resolve().parents[1] / "aibrix_compile" / "catalog"


class Remote(io.RawIOBase):
    """A file behind a URL that answers byte ranges."""

    def __init__(self, url: str, block: int = 1 << 20) -> None:
        self.url, self.block, self.at = url, block, 0
        self.blocks: dict[int, bytes] = {}
        with self.open(0, 0) as answer:
            self.size = int(answer.headers["content-range"].rpartition("/")[2])

    def open(self, first: int, last: int) -> Any:
        return urllib.request.urlopen(urllib.request.Request(self.url, headers={"Range": f"bytes={first}-{last}"}))

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        number, start = divmod(self.at, self.block)
        if self.at < self.size and number not in self.blocks:
            with self.open(number * self.block, min((number + 1) * self.block, self.size) - 1) as answer:
                self.blocks[number] = answer.read()
        data = self.blocks.get(number, b"")[start : start + len(buffer)]
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def released(engine: str, version: str, wheel: str) -> dict[str, str]:
    """The Python files of a release: of a wheel on this machine, or of the one that pip's configured index offers."""
    if not wheel:
        call = ["install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed", "--only-binary", ":all:"]
        said = subprocess.check_output([sys.executable, "-m", "pip", *call, "--report", "-", f"{engine}=={version}"])
        wheel = json.loads(said)["install"][0]["download_info"]["url"]
    file = io.BufferedReader(cast(io.RawIOBase, Remote(wheel))) if "://" in wheel else wheel
    with zipfile.ZipFile(cast(str, file)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}


def catalog(engine: str, version: str, files: Mapping[str, str]) -> dict[str, Any]:
    source = Source(files)
    flags = Parser(source).flags
    return {
        "name": engine,
        "version": version,
        "port": flags["port"]["default"],
        "flags": flags,
        "metrics": Metrics(source).found,
    }


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine")
    parser.add_argument("version")
    parser.add_argument("--wheel", default="", help="a downloaded wheel instead of the index")
    parser.add_argument("--tree", type=Path, help="an unpacked release instead of a wheel")
    parser.add_argument("--out", type=Path, help="default: the catalog's file for this version")
    call = parser.parse_args(arguments)
    if call.tree:
        files = {path.relative_to(call.tree).as_posix(): path.read_text() for path in sorted(call.tree.rglob("*.py"))}
    else:
        files = released(call.engine, call.version, call.wheel)
    out = call.out or CATALOG / f"{call.engine}-{call.version}.json"
    out.write_text(json.dumps(catalog(call.engine, call.version, files), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
