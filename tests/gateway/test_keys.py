"""Keys: who a caller is, how a key is changed while requests run, and where keys never are."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from aibrix_compile.backends.gateway import workloads
from tests.gateway import projects
from tests.gateway.echo import Echo, echoes, echoing
from tests.gateway.load import steady
from tests.gateway.running import KEY, Gateway, wait

BODY = {"model": "chat", "messages": []}
SECONDS = 12
"""Until a changed Secret is in force: the script looks every two seconds, and the machine may be busy."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    plan = projects.plan(tmp_path_factory.mktemp("keys"), [projects.service("chat")], tenants=["acme", "beta"])
    with echoing(plan, {"chat": 1}) as gateway:
        yield gateway


@pytest.fixture
def engine(gateway: Gateway) -> Echo:
    return echoes(gateway)[0]


def call(gateway: Gateway, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, headers=named, timeout=10)


def status(gateway: Gateway, key: str) -> int:
    return call(gateway, authorization=f"Bearer {key}").status_code


@pytest.mark.parametrize(
    "headers",
    [{"authorization": "Bearer key-of-beta"}, {"authorization": "key-of-beta"}, {"x_api_key": "key-of-beta"}],
)
def test_a_key_says_who_calls(gateway: Gateway, engine: Echo, headers: dict[str, str]) -> None:
    assert call(gateway, **headers).status_code == 200
    assert [one.header("x-tenant") for one in engine.seen] == [["beta"]]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer key-of-nobody"},
        {"authorization": "Bearer key-of-bet"},
        {"authorization": "Bearer key-of-beta "[:-1] + "x"},
        {"authorization": "bearer key-of-beta"},  # Envoy takes the word as it is usually written, and no other
        {"authorization": "Basic key-of-beta"},
        {"authorization": "Bearer key-of-acme, Bearer key-of-beta"},
        {"x_api_key": "KEY-OF-BETA"},
        {"cookie": "authorization=key-of-beta", "x_tenant": "beta"},
    ],
)
def test_without_a_known_key_nothing_passes(gateway: Gateway, engine: Echo, headers: dict[str, str]) -> None:
    answer = call(gateway, **headers)
    assert answer.status_code == 401 and answer.json()["error"]["type"] == "authentication_error"
    assert answer.headers["x-request-id"] and engine.seen == []
    for path in ("/v1/models", "/v1/models/chat", "/metrics", "/"):
        assert httpx.get(f"{gateway.url}{path}").status_code == 401


def test_the_same_words_for_every_unknown_key(gateway: Gateway) -> None:
    answers = [call(gateway, authorization=f"Bearer {key}") for key in ("key-of-nobody", "key-of-acm", "x" * 5000)]
    assert len({answer.text for answer in answers}) == 1


def test_a_changed_secret_is_in_force_in_seconds_and_fails_nobody_else(gateway: Gateway, engine: Echo) -> None:
    new = "a-new-key-of-beta"
    try:
        with steady(gateway.caller("acme"), BODY) as acme, steady(gateway.caller("beta"), BODY) as beta:
            gateway.secret({"acme": f"{KEY}acme\n", "beta": f"{KEY}beta\n{new}\n"})  # both, while clients change over
            wait(lambda: status(gateway, new) == 200, SECONDS)
            assert set(beta()) == {200}
            gateway.secret({"acme": f"{KEY}acme\n", "beta": f"{new}\n"})
            wait(lambda: status(gateway, f"{KEY}beta") == 401, SECONDS)
            time.sleep(0.3)
            assert set(acme()) == {200} and len(acme()) > 50
            assert set(beta()) == {200, 401} and status(gateway, new) == 200
    finally:
        gateway.secret({name: f"{KEY}{name}\n" for name in ("acme", "beta")})
        wait(lambda: status(gateway, f"{KEY}beta") == 200, SECONDS)


def test_a_key_of_two_tenants_changes_nothing(gateway: Gateway) -> None:
    before = _rejections(gateway)
    try:
        gateway.secret({"acme": f"{KEY}acme\nshared-key-1\n", "beta": f"{KEY}beta\nshared-key-1\nfresh-key-1\n"})
        wait(lambda: _rejections(gateway) > before, SECONDS)
        assert [status(gateway, key) for key in (f"{KEY}acme", f"{KEY}beta")] == [200, 200]
        assert [status(gateway, key) for key in ("shared-key-1", "fresh-key-1")] == [401, 401]
    finally:
        gateway.secret({name: f"{KEY}{name}\n" for name in ("acme", "beta")})
        file = gateway.folder / "keys" / "api_keys.yaml"
        wait(lambda: "fresh-key-1" not in file.read_text(), SECONDS)


def test_keys_are_in_no_log_no_answer_and_at_no_engine(gateway: Gateway, engine: Echo) -> None:
    answers = [
        call(gateway, authorization=f"Bearer {KEY}acme"),
        call(gateway, authorization=f"Bearer {KEY}acme", x_api_key=f"{KEY}beta"),
        call(gateway, authorization=f"{KEY}nobody"),
        httpx.get(f"{gateway.url}/v1/models", headers={"x-api-key": f"{KEY}acme"}),
        httpx.get(f"{gateway.ops}/metrics"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 401, 200, 200]
    shown = "".join(f"{answer.text}{answer.headers}" for answer in answers)
    shown += "".join(f"{one.path}{one.headers}{one.body!r}" for one in engine.seen)
    gateway.entries(4)
    for name in ("envoy.out", "envoy.log", "keys.log", "keys.out"):
        shown += (gateway.folder / name).read_text()
    assert len(engine.seen) == 2 and KEY not in shown


def _rejections(gateway: Gateway) -> float:
    page = httpx.get(f"{gateway.admin}/stats?filter=extension_config_discovery.*update_rejected").text
    return sum(float(row.rpartition(" ")[2]) for row in page.splitlines() if ":" in row)


# --- the script that turns the Secret's entries into Envoy's file


@contextmanager
def script(folder: Path, *tenants: str) -> Iterator[tuple[Path, Path]]:
    """It running on `folder`/secret; yields the file that it writes, and its log."""
    file, log = folder / "api_keys.yaml", folder / "log"
    path = Path(workloads.__file__).with_name("keys.sh")
    with log.open("w") as output:
        command = ["bash", str(path), str(folder / "secret"), str(file), *tenants]
        process = subprocess.Popen(command, stderr=output, stdout=output)
    try:
        wait(file.exists, 10)
        yield file, log
    finally:
        process.kill()
        process.wait()


def credentials(file: Path) -> list[tuple[str, str]]:
    (resource,) = yaml.safe_load(file.read_text())["resources"]
    return [(one["client"], one["key"]) for one in resource["typed_config"]["credentials"] or ()]


def test_lines_that_are_no_keys_are_left_out_and_said_without_being_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "acme").write_bytes(b'first-key-1\r\n\r\n  second-key+/=._~- \nno\nspace in it\n"}, {key: "x\nlast-key-1')
    (secret / "beta").write_bytes(b"$(touch${IFS}hacked)\n`touch hacked`\n" + b"x" * 201 + b"\n")
    (secret / "gone").write_bytes(b"key-of-gone\n")
    with script(tmp_path, "acme", "beta", "missing") as (file, log):
        assert credentials(file) == [("acme", "first-key-1"), ("acme", "second-key+/=._~-"), ("acme", "last-key-1")]
        said = log.read_text()
        assert said.count("a key of tenant acme is left out") == 3
        assert said.count("a key of tenant beta is left out") == 3
        assert "tenant missing has no entry in the Secret" in said
        assert not any(word in said for word in ("first-key", "space in", "touch", "xxx"))
        assert not list(tmp_path.rglob("hacked"))


def test_the_file_is_written_again_when_an_entry_changes(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "acme").write_text("first-key-1\n")
    with script(tmp_path, "acme", "beta") as (file, _):
        (secret / "beta").write_text("key-of-beta\n")
        wait(lambda: ("beta", "key-of-beta") in credentials(file), SECONDS)
        (secret / "acme").write_text("")
        wait(lambda: credentials(file) == [("beta", "key-of-beta")], SECONDS)
        (secret / "beta").unlink()
        wait(lambda: credentials(file) == [], SECONDS)
