"""`python -m aibrix_controllers.picker run | explain`. A mistake is one line and exit status 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from aibrix_controllers.picker import explain
from aibrix_controllers.picker.config import Mistake, load


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "explain":
        status, words = explain.ask(options.request_id, options.address)
        (sys.stderr if status else sys.stdout).write(words + "\n")
        return status
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    import uvloop

    from aibrix_controllers.picker.server import Options, Server

    ports = (options.grpc_port, options.health_port, options.http_port, options.peer_port)

    async def run() -> None:
        found = Options(options.config, options.endpoints, options.bind, *ports, options.peers, options.runtime_token)
        await Server(found, load(options.config)).run()

    try:
        uvloop.run(run())
    except (Mistake, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except LookupError as error:
        sys.stderr.write(f"neither --endpoints nor a cluster around it: {error} is not set\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aibrix_controllers.picker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="answer a gateway")
    run.add_argument("--config", type=Path, required=True, help="picker.json; read again when it changes")
    run.add_argument("--endpoints", type=Path, help="a JSON file of replicas, instead of Kubernetes")
    run.add_argument("--bind", default="0.0.0.0", help="address of all ports")
    for name, port in (("grpc", 9002), ("health", 9003), ("http", 9090), ("peer", 9004)):
        run.add_argument(f"--{name}-port", type=int, default=port, help=f"{port}; 0: any that is free")
    run.add_argument("--peers", default="", help="HOST:PORT, a DNS name of all pickers")
    run.add_argument("--runtime-token", type=Path, metavar="FILE", help="shown to sidecars; read anew as it rotates")
    why = commands.add_parser("explain", help="why a request went where it went")
    why.add_argument("request_id", help="x-request-id of the answer")
    why.add_argument("--address", required=True, help="HOST:PORT of a picker's http port, or of a name for all of them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
