"""A mock of docker for test_kind.py: answers kind as docker would, and writes down what it was asked.

Each line of `log` in the folder FAKE_DOCKER is [arguments, standard input]. FAKE_VERSION is what nodes say they run,
FAKE_PORT where the API server is published.
"""

import json
import os
import pathlib
import sys

argv, here = sys.argv[1:], pathlib.Path(os.environ["FAKE_DOCKER"])
nodes = here / "nodes"
said = sys.stdin.read() if "-i" in argv or argv[-1] == "-" else ""
with (here / "log").open("a") as log:
    log.write(json.dumps([argv, said]) + "\n")
text = " ".join(argv)
if argv[0] == "run":
    with nodes.open("a") as file:
        file.write(argv[argv.index("--name") + 1] + "\n")
elif argv[0] == "ps":
    print(nodes.read_text() if nodes.exists() else "", end="")
elif argv[0] == "info":
    able = dict.fromkeys(("MemoryLimit", "PidsLimit", "CPUShares"), True)
    print(json.dumps({"CgroupVersion": "2", "CgroupDriver": "systemd", **able}))
elif argv[:2] == ["network", "ls"]:
    print("kind")
elif argv[:2] == ["network", "inspect"]:
    print(json.dumps([{"Name": "kind", "ID": "kind", "Containers": {}}]))
elif argv[0] == "logs":
    print("Reached target Multi-User System.")
elif argv[0] == "inspect" and "role" in text:
    print("control-plane" if "control-plane" in argv[-1] else "worker")
elif argv[0] == "inspect" and "Networks" in text:
    print("172.18.0.2,")
elif argv[0] == "inspect" and ".Ports" in text:
    print("127.0.0.1\t" + os.environ.get("FAKE_PORT", "6443"))
elif argv[0] == "inspect":
    print("")
elif argv[:2] == ["image", "inspect"]:
    print("sha256:" + "0" * 64)
elif argv[0] == "save":
    pathlib.Path(argv[2]).touch()
elif text.endswith("cat /kind/version"):
    print(os.environ["FAKE_VERSION"])
elif text.endswith("cat /etc/kubernetes/admin.conf"):
    print((here / "admin.conf").read_text())
elif "crictl" in argv:
    sys.exit(1)
elif text.endswith("containerd config dump"):
    print('version = 3\n[plugins."io.containerd.cri.v1.images"]\nsnapshotter = "overlayfs"')
elif "kubectl" in argv and "get" in argv:
    print("True")
