"""Files from sources onto the disk: whole or not at all, whatever breaks. And each kind of source with what only it can do wrong."""

import asyncio
import errno
import hashlib
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aibrix_runtime.errors import Failed
from aibrix_runtime.fetch import Meta, Places, Secret, hub, opened, pull
from aibrix_runtime.fetch.files import Folder
from aibrix_runtime.fetch.https import Web
from aibrix_runtime.fetch.uris import parse
from tests.gateway.running import certificate


class Memory:
    """A source of one file, which gives what `act` makes of each request."""

    def __init__(self, data: bytes, act: Callable[[int], None] = lambda _: None) -> None:
        self.data, self._act, self.asked = data, act, 0

    async def head(self, name: str) -> Meta | None:
        return Meta(len(self.data), "tag")

    async def read(self, name: str, begin: int, end: int, tag: str) -> bytes:
        self.asked += 1
        self._act(self.asked)
        return self.data[begin:end]

    async def names(self) -> list[str]:
        return ["x"]

    async def close(self) -> None: ...


def fetched(source: Memory, folder: Path, tag: str = "tag") -> str:
    return asyncio.run(pull.pull(source, "x", Meta(len(source.data), tag), folder / "x", lambda *_: None))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "CHUNK", 10)
    monkeypatch.setattr(pull, "WAIT_S", 0.0)


def failing(*numbers: int, code: str = "source_failed") -> Callable[[int], None]:
    def act(number: int) -> None:
        if number in numbers:
            raise Failed(code, "it broke off")

    return act


@settings(max_examples=50)
@given(st.binary(max_size=95))
def test_a_file_arrives_whole(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("x")
    assert fetched(Memory(data), folder) == hashlib.sha256(data).hexdigest()
    assert (folder / "x").read_bytes() == data and [path.name for path in folder.iterdir()] == ["x"]


def test_a_range_that_breaks_off_is_asked_for_again(tmp_path: Path) -> None:
    source = Memory(bytes(range(95)), failing(2, 5))
    fetched(source, tmp_path)
    assert source.asked == 12 and (tmp_path / "x").read_bytes() == source.data


def test_what_came_is_kept_for_the_next_attempt(tmp_path: Path) -> None:
    first = Memory(bytes(range(95)), failing(*range(6, 100)))
    with pytest.raises(Failed, match="it broke off"):
        fetched(first, tmp_path)
    assert not (tmp_path / "x").exists()
    second = Memory(first.data)
    fetched(second, tmp_path)
    assert 5 <= second.asked < 10 and (tmp_path / "x").read_bytes() == first.data


def test_another_content_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(Failed):
        fetched(Memory(b"a" * 95, failing(*range(6, 100))), tmp_path)
    second = Memory(b"b" * 95)
    fetched(second, tmp_path, tag="other")
    assert second.asked == 10 and (tmp_path / "x").read_bytes() == second.data


@pytest.mark.parametrize(
    "state", ["", "{", "[]", '{"tag": "tag", "size": 95, "done": [3]}', '{"tag": "tag", "size": 95, "done": "x"}']
)
def test_a_state_that_is_none_is_no_state(tmp_path: Path, state: str) -> None:
    (tmp_path / "x.part").write_bytes(b"?" * 95)
    (tmp_path / "x.state").write_text(state)
    source = Memory(bytes(range(95)))
    fetched(source, tmp_path)
    assert (tmp_path / "x").read_bytes() == source.data


def test_what_is_refused_is_not_asked_again(tmp_path: Path) -> None:
    source = Memory(b"x", failing(1, code="denied"))
    with pytest.raises(Failed) as caught:
        fetched(source, tmp_path)
    assert caught.value.code == "denied" and source.asked == 1


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Failed, match="is full") as caught:
        fetched(Memory(b"x" * 50), tmp_path)
    assert caught.value.code == "disk_full"


def test_a_link_in_place_of_a_part_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")
    (tmp_path / "x.part").symlink_to(target)
    with pytest.raises((Failed, OSError)):
        fetched(Memory(b"x" * 50), tmp_path)
    assert target.read_text() == "mine"


# --- folders that are mounted


def read(folder: Folder, name: str) -> bytes | None:
    async def run() -> bytes | None:
        meta = await folder.head(name)
        return None if meta is None else await folder.read(name, 0, meta.size, meta.tag)

    return asyncio.run(run())


def test_links_inside_a_claim_are_followed_and_others_are_not(tmp_path: Path) -> None:
    claim = tmp_path / "claim"
    (claim / "a").mkdir(parents=True)
    (claim / "a/real").write_text("good")
    (claim / "a/inside").symlink_to("real")
    (claim / "a/outside").symlink_to("/etc/passwd")
    (claim / "up").symlink_to(tmp_path)
    (tmp_path / "secret").write_text("secret")
    os.mkfifo(claim / "a/pipe")
    folder = Folder(claim, "a")
    assert read(folder, "inside") == b"good" and read(folder, "nothing") is None
    for one, name, code in (
        (folder, "outside", "uri_not_allowed"),
        (Folder(claim, "up"), "secret", "uri_not_allowed"),
        (folder, "pipe", "source_failed"),
    ):
        with pytest.raises(Failed) as caught:
            read(one, name)
        assert caught.value.code == code
    assert asyncio.run(folder.names()) == ["inside", "real"]


def test_a_file_that_changes_while_it_is_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    async def run() -> None:
        folder = Folder(tmp_path, "")
        meta = await folder.head("x")
        assert meta
        (tmp_path / "x").write_text("other")
        await folder.read("x", 0, 3, meta.tag)

    with pytest.raises(Failed, match="changed while it was read"):
        asyncio.run(run())


def test_a_claim_or_secret_that_is_not_there_is_said(tmp_path: Path) -> None:
    places = Places(None, {}, tmp_path, tmp_path)
    for uri, secret, words in (
        ("pvc://data/x", None, "claim data is not mounted in this pod"),
        ("https://host/x", Secret("keys", "token"), "Secret keys can not be read"),
    ):
        with pytest.raises(Failed, match=words):
            opened(parse(uri), secret, places)
    (tmp_path / "keys").mkdir()
    with pytest.raises(Failed, match="Secret keys has no entry token"):
        opened(parse("https://host/x"), Secret("keys", "token"), places)
    (tmp_path / "keys/other").write_text("x")
    with pytest.raises(Failed, match="has none of AWS_ACCESS_KEY_ID"):
        opened(parse("s3://bucket/x"), Secret("keys", "token"), places)


# --- a web server


DATA = bytes(range(100))
Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, dict[str, Answer], list[str], ssl.SSLContext]]:
    """Over TLS. Address, answers by path, the paths that were asked for with their tokens, and who trusts it."""
    folder = tmp_path_factory.mktemp("tls")
    certificate(folder, "localhost")
    answers: dict[str, Answer] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('authorization', '')}".strip())
            answers.get(self.path, lambda one: say(one, 404))(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    trust = ssl.create_default_context(cafile=str(folder / "tls.crt"))
    trust.check_hostname = False
    yield f"localhost:{server.server_port}", answers, asked, trust
    server.shutdown()


def say(one: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    one.send_response(status)
    for name, text in ({"content_length": str(len(body))} | headers).items():
        one.send_header(name.replace("_", "-"), text)
    one.end_headers()
    if one.command == "GET":
        one.wfile.write(body)


def ranged(one: BaseHTTPRequestHandler) -> None:
    """As web servers do it."""
    given = one.headers.get("range", "")
    if not given:
        return say(one, 200, DATA, etag='"1"')
    begin, end = (int(part) for part in given.removeprefix("bytes=").split("-"))
    return say(one, 206, DATA[begin : end + 1], etag='"1"', content_range=f"bytes {begin}-{end}/100")


def web(site: Any, begin: int = 20, end: int = 30, token: str = "") -> bytes | None:
    async def run() -> bytes | None:
        source = Web(parse(f"https://{site[0]}/a"), token, "keys" if token else "")
        source._session._connector = aiohttp.TCPConnector(ssl=site[3])
        try:
            meta = await source.head("x")
            return None if meta is None else await source.read("x", begin, end, meta.tag)
        finally:
            await source.close()

    return asyncio.run(run())


def test_ranges_of_a_web_server(site: Any) -> None:
    site[1]["/a/x"] = ranged
    assert web(site) == DATA[20:30]
    assert web(site, token="t0ken") == DATA[20:30]
    assert site[2][-1] == "/a/x Bearer t0ken"
    del site[1]["/a/x"]
    assert web(site) is None


def test_redirects_stay_on_their_host(site: Any) -> None:
    site[1]["/b"] = ranged
    for target, words in (
        ("/b", ""),
        (f"https://{site[0]}/b", ""),
        ("https://evil.example/x", "another place than was allowed"),
        (f"http://{site[0]}/b", "another place"),
        ("//evil.example/x", "another place"),
        ("file:///etc/passwd", "another place"),
        ("/a/x", "redirects more than 3 times"),
    ):
        site[1]["/a/x"] = lambda one, target=target: say(one, 302, location=target)
        if words:
            with pytest.raises(Failed, match=words):
                web(site, token="t0ken")
        else:
            assert web(site) == DATA[20:30]


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (lambda one: say(one, 403), "denied", "a request without a token; no Secret was given"),
        (lambda one: say(one, 500), "source_failed", "answers 500"),
        (lambda one: say(one, 200, DATA, etag='"1"'), "source_failed", "gives no ranges"),
        (lambda one: say(one, 200, b"\x1f\x8b" * 50, content_encoding="gzip"), "source_failed", "compressed"),
        (lambda one: say(one, 200, DATA, content_length="-5"), "source_failed", "answer|large"),
        (lambda one: say(one, 200, DATA, x="y" * 40_000), "source_failed", "does not answer"),
    ],
)
def test_what_a_web_server_does_wrong(site: Any, answer: Answer, code: str, words: str) -> None:
    site[1]["/a/x"] = answer
    with pytest.raises(Failed, match=words) as caught:
        web(site)
    assert caught.value.code == code


def test_a_server_that_gives_more_or_less_than_asked_for(site: Any) -> None:
    def short(one: BaseHTTPRequestHandler) -> None:
        if one.command == "GET":
            return say(one, 206, DATA[20:25], content_range="bytes 20-29/100", etag='"1"')
        return ranged(one)

    site[1]["/a/x"] = short
    with pytest.raises(Failed, match="broke off after 5 of 10 bytes"):
        web(site)


# --- the Hugging Face Hub, whose client is a process of its own


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub with one repository, org/repo. What was asked for, with tokens."""
    files = {"sub/adapter_config.json": b"{}", "sub/adapter_model.safetensors": DATA, "README.md": b"x"}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            asked.append(f"{path} {self.headers.get('authorization', '')}".strip())
            if "/gated" in path:
                return say(self, 403, b"{}", X_Error_Code="GatedRepo", X_Error_Message="ask for access")
            if path.startswith("/api/models/org/repo/tree/"):
                rows = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in files.items()]
                return say(self, 200, json.dumps(rows).encode(), content_type="application/json")
            name = path.partition("/resolve/")[2].partition("/")[2]
            if path.startswith("/org/repo/resolve/") and name in files:
                commit = "0" * 40
                return say(self, 200, files[name], etag=f'"{len(name)}"', X_Repo_Commit=commit, accept_ranges="bytes")
            return say(self, 404, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="no such repository")

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, _paths())))
    yield asked
    server.shutdown()


def _paths() -> list[Path]:
    root = Path(hub.__file__).parents[2]
    return [root, root.parents[1]]


def test_a_folder_of_a_repository(repository: list[str], tmp_path: Path) -> None:
    async def run() -> tuple[list[str], bytes]:
        source = hub.Hub(parse("hf://org/repo@main/sub"), "t0ken", tmp_path)
        try:
            names = await source.names()
            meta = await source.head("adapter_model.safetensors")
            assert meta and meta.size == 100 and await source.head("nothing") is None
            return names, await source.read("adapter_model.safetensors", 20, 30, meta.tag)
        finally:
            await source.close()

    names, data = asyncio.run(run())
    assert names == ["adapter_config.json", "adapter_model.safetensors"] and data == DATA[20:30]
    assert "/api/models/org/repo/tree/main Bearer t0ken" in repository
    assert not list(tmp_path.rglob("*.safetensors")), "what was copied is not kept"


@pytest.mark.parametrize(
    ("uri", "token", "code"),
    [("hf://org/gated", "x", "denied"), ("hf://org/other", "x", "not_found"), ("hf://org/other", "", "denied")],
)
def test_a_hub_that_refuses(repository: list[str], tmp_path: Path, uri: str, token: str, code: str) -> None:
    with pytest.raises(Failed) as caught:
        asyncio.run(hub.Hub(parse(uri), token, tmp_path).names())
    assert caught.value.code == code and caught.value.message.startswith(uri)
