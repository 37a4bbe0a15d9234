"""An S3 server that is not ours: s3rver, from npm, which gives real ranges. Installed once into the cache folder."""

import fcntl
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from obstore.store import S3Store

from tests.mock.mocks import free_port
from tests.toolchain import Missing, cache, say

VERSION = "3.7.1"
KEYS = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}


def program() -> Path:
    """`Missing` without npm."""
    folder = cache() / f"s3rver-{VERSION}"
    found = folder / "node_modules/s3rver/bin/s3rver.js"
    if found.exists():
        return found
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise Missing("needs Node (apt-get install nodejs npm) for an S3 server")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            say(f"installing s3rver {VERSION} (once)")
            words = [npm, "install", "--no-audit", "--no-fund", "--silent", f"s3rver@{VERSION}"]
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
            if done.returncode or not found.exists():
                raise Missing(f"could not install s3rver:\n{done.stderr[-2000:]}")
    return found


def command(address: str, port: int, folder: Path, *buckets: str) -> list[str]:
    """To start it with these buckets; what it holds lies in `folder`."""
    words = [shutil.which("node") or "node", str(program()), "--address", address, "--port", str(port)]
    words += ["--directory", str(folder), "--silent"]
    return [*words, *(word for name in buckets for word in ("--configure-bucket", name))]


def store(endpoint: str, bucket: str) -> Any:
    keys: Any = {"access_key_id": "S3RVER", "secret_access_key": "S3RVER", "region": "us-east-1"}
    return S3Store(bucket, endpoint=endpoint, client_options={"allow_http": True}, **keys)


def put(endpoint: str, bucket: str, name: str, folder: Path) -> None:
    """The files of a folder, below `name`."""
    for path in folder.iterdir():
        store(endpoint, bucket).put(f"{name}/{path.name}", path.read_bytes())


@contextmanager
def running(folder: Path, *buckets: str, port: int = 0) -> Iterator[str]:
    """Its endpoint."""
    port = port or free_port()
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        command("127.0.0.1", port, folder, *buckets), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                list(store(endpoint, buckets[0]).list())
                break
            except Exception:  # it is still starting
                assert process.poll() is None and time.monotonic() < deadline, "s3rver does not start"
                time.sleep(0.1)
        yield endpoint
    finally:
        process.kill()
        process.wait()
