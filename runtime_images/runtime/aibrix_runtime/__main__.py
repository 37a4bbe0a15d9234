"""`python -m aibrix_runtime run`. A mistake is one line and exit status 2."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    from aibrix_runtime.config import Mistake, load
    from aibrix_runtime.server import Options, Server

    places = (options.run, options.secrets, options.identity, options.token_file)

    async def run() -> None:
        found = Options(options.config, options.bind, options.port, *places)
        await Server(found, load(options.config)).run()

    try:
        asyncio.run(run())
    except (Mistake, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aibrix_runtime", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="stand beside an engine")
    run.add_argument("--config", type=Path, required=True, help="runtime.json; read again when it changes")
    run.add_argument("--bind", default="0.0.0.0", help="address to listen at")
    run.add_argument("--port", type=int, default=8080)
    run.add_argument("--run", type=Path, default=Path("/run/aibrix"), help="folder that is shared with the engine")
    run.add_argument("--secrets", type=Path, default=Path("/etc/aibrix-secrets"), help="folder of Secrets: NAME/KEY")
    run.add_argument(
        "--identity",
        type=Path,
        default=Path("/var/run/secrets/aibrix"),
        help="folder with this pod's token and ca.crt, to read the cluster's keys",
    )
    run.add_argument(
        "--token-file", type=Path, help="who may call, instead of the cluster's accounts: TOKEN RIGHT[,RIGHT]"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
