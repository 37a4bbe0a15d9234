"""One container as a process under bwrap: its own file system, users, processes and IPC, in the network of its pod.

What is as in a real node: command, args, env, user, capabilities, read-only root, PID 1 semantics, exit codes, logs. What is
not: no cgroups (limits of memory and CPU do not bind), no seccomp profile, no image layers, one real user behind all uids
(so `fsGroup` changes nothing).
"""

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import images
from tests.cluster.volumes import NotYet, expand
from tests.cluster.watch import Object


@dataclass(slots=True)
class Setting:
    """What a container needs besides its own spec: env resolved, folders of volumes by name, files below /etc."""

    pod: Object
    network: int
    env: dict[str, str]
    folders: dict[str, Path]
    etc: Path


@dataclass(slots=True)
class Process:
    """A running container. `pid` is its PID 1, seen from the node."""

    outer: asyncio.subprocess.Process
    pid: int
    env: dict[str, str] = field(default_factory=dict)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """Every process of the container: freezing PID 1 alone would leave its children running."""
        space = _space(self.pid)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _space(int(entry.name)) == space:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(entry.name), number)

    async def run(self, argv: list[str], timeout: float) -> tuple[int, str]:
        """A command inside, as the kubelet's exec: exit code and output; 124 and what it printed after `timeout` seconds."""
        enter = [
            "nsenter",
            f"--target={self.pid}",
            "-U",
            "-m",
            "-p",
            "-i",
            "-n",
            "--root",
            "--wd",
            "--preserve-credentials",
        ]
        process = await asyncio.create_subprocess_exec(
            *enter,
            *argv,
            env=self.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            executable=_NSENTER,
        )
        try:
            async with asyncio.timeout(timeout):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            return 124, f"no end after {timeout} s"
        return process.returncode or 0, said.decode("utf-8", "replace")

    async def wait(self) -> int:
        return await self.outer.wait()


_NSENTER = next((path for path in ("/usr/bin/nsenter", "/bin/nsenter") if Path(path).exists()), "nsenter")


def _space(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


async def start(spec: Object, setting: Setting, log: Path) -> Process:
    """Start the container; `NotYet` where a kubelet would keep it waiting."""
    image = images.find(spec["image"])
    if image is None:
        raise NotYet(f'ErrImagePull: no image "{spec["image"]}" here')
    user, group = _identity(setting.pod, spec, image)
    env = {**image.env, "HOSTNAME": setting.pod["metadata"]["name"], **_API, **setting.env}
    if (
        "PYTHONPATH" in image.env and "PYTHONPATH" in setting.env
    ):  # an image's own packages are installed, not on a path
        env["PYTHONPATH"] = f"{setting.env['PYTHONPATH']}:{image.env['PYTHONPATH']}"
    command = [expand(word, env) for word in spec.get("command", ())] or list(image.command)
    argv = command + [expand(word, env) for word in spec.get("args", ())]
    if not argv:
        raise NotYet("no command specified")
    reading, writing = os.pipe()
    who = ("--uid", str(user), "--gid", str(group), "--info-fd", str(writing))
    bwrap = [*_ISOLATED, *who, *_files(spec, setting, image)]
    bwrap += [word for name, value in env.items() for word in ("--setenv", name, value)]
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("ab") as output:
            outer = await asyncio.create_subprocess_exec(
                "nsenter",
                f"--net=/proc/{setting.network}/ns/net",
                "bwrap",
                *bwrap,
                "--",
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
            )
    finally:
        os.close(writing)
    with os.fdopen(reading) as answer:
        said = await asyncio.to_thread(answer.read)
    if not said:
        await outer.wait()
        raise NotYet(f"CreateContainerError: {log.read_text('utf-8', 'replace')[-500:]}")
    return Process(outer, json.loads(said)["child-pid"], env)


_ISOLATED = (
    "--die-with-parent",
    *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1", "--new-session"),
    *("--cap-drop", "ALL", "--clearenv", "--proc", "/proc", "--dev", "/dev"),
)
_API = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def _identity(pod: Object, spec: Object, image: images.Image) -> tuple[int, int]:
    both = {**pod["spec"].get("securityContext", {}), **spec.get("securityContext", {})}
    user = both.get("runAsUser", image.user)
    if both.get("runAsNonRoot") and user == 0:
        raise NotYet("CreateContainerConfigError: container has runAsNonRoot and image will run as root")
    return user, both.get("runAsGroup", 0)


def _files(spec: Object, setting: Setting, image: images.Image) -> list[str]:
    words = [*images.system(), "--perms", "1777", "--tmpfs", "/tmp", "--dir", "/var/tmp", "--dir", "/run"]
    programs = [word for path in image.paths for word in ("--ro-bind", str(path), str(path))]
    words += programs
    for name, path in image.files.items():
        words += ["--ro-bind", str(path), name]
    for name in ("hosts", "resolv.conf", "hostname", "passwd", "group"):
        words += ["--ro-bind", str(setting.etc / name), f"/etc/{name}"]
    for mount in sorted(spec.get("volumeMounts", ()), key=lambda one: str(one["mountPath"])):
        path = setting.folders[mount["name"]]
        if part := mount.get("subPath"):
            path = path / part
            if not path.exists():
                path.mkdir(parents=True)
        words += ["--ro-bind" if mount.get("readOnly") else "--bind", str(path), mount["mountPath"]]
        if any(one.is_relative_to(mount["mountPath"]) for one in image.paths):
            words += programs  # a checkout below /tmp: its volume would hide them
    if spec.get("securityContext", {}).get("readOnlyRootFilesystem"):
        words += ["--remount-ro", "/"]
    return [*words, "--chdir", spec.get("workingDir", "/")]
