"""README's session is run as it stands there: every command prints what the reader is promised."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_session(tmp_path: Path) -> None:
    (section,) = re.findall(r"## Sixty seconds\n(.*?)\n## ", README.read_text("utf-8"), re.DOTALL)
    session = "\n\n".join(re.findall(r"```\n(.*?)```", section, re.DOTALL))
    steps = re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    assert len(steps) >= 5
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "120",
    }
    for command, expected in steps:
        if command.startswith("pip "):
            continue
        if command.startswith("cat "):
            (tmp_path / command.split()[1]).write_text(expected.rstrip("\n") + "\n")
            continue
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.stdout.strip("\n") == expected.strip("\n"), command
