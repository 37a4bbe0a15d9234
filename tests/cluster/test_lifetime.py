"""A cluster ends with the process that started it, however that ends, and needs no rights of its own to start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import assets
from tests.cluster.api import wait
from tests.cluster.cluster import ROOT
from tests.toolchain import Missing, absent

STARTS = """
import signal, time
from tests.cluster.cluster import Cluster
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background without it
with Cluster.start() as cluster:
    print(cluster.folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    try:
        assets.control_plane()
    except Missing as missing:
        absent(str(missing))


def _started(*before: str) -> tuple[subprocess.Popen[str], str]:
    """A process that has a cluster, and the cluster's folder, which stands in the command line of all of its parts."""
    env = {name: value for name, value in os.environ.items() if name != "AIBRIX_KEEP_LOGS"}
    one = subprocess.Popen(
        [*before, sys.executable, "-c", STARTS], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    )
    assert one.stdout is not None
    folder = one.stdout.readline().strip()
    assert folder and len(_processes(folder)) >= 6
    return one, folder


def _processes(folder: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            found += [words] if folder in words else []
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_nothing_is_left_behind(how: signal.Signals) -> None:
    one, folder = _started()
    one.send_signal(how)
    one.wait(60)
    wait("every process is gone", lambda: not _processes(folder), 15)
    if how == signal.SIGINT:
        assert not Path(folder).exists()


def test_it_starts_as_an_ordinary_user() -> None:
    """Root is put into a user namespace in which it is somebody else, without a capability."""
    bare = ["bwrap", "--dev-bind", "/", "/", "--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
    one, folder = _started(*([*bare, "--die-with-parent", "--"] if os.geteuid() == 0 else []))
    one.send_signal(signal.SIGTERM)
    one.wait(60)
    wait("every process is gone", lambda: not _processes(folder), 15)
