"""`python -m aibrix_controllers.scaler run | explain`. A mistake is one line and exit status 2."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return _explain(options) if options.command == "explain" else _run(options)


def _run(options: argparse.Namespace) -> int:
    import uvloop

    from aibrix_controllers.kube.api import Api
    from aibrix_controllers.scaler.controller import Settings
    from aibrix_controllers.scaler.server import Server

    async def run() -> None:
        api = Api(options.api, options.api_token, options.ca) if options.api else Api.in_cluster()
        settings = Settings(options.namespace, options.identity, tuple(options.pickers), options.runtime_token)
        await Server(settings, api, options.http_port, options.bind).run()

    try:
        uvloop.run(run())
    except LookupError as error:
        sys.stderr.write(f"neither --api nor a cluster around it: {error} is not set\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _explain(options: argparse.Namespace) -> int:
    try:
        with urllib.request.urlopen(f"http://{options.address}/explain/{quote(options.service)}", timeout=10) as answer:
            sys.stdout.write(answer.read().decode())
    except urllib.error.HTTPError as error:
        sys.stderr.write(error.read().decode("utf-8", "replace"))
        return 1
    except OSError as error:
        sys.stderr.write(f"{options.address} does not answer: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m aibrix_controllers.scaler", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="scale services")
    run.add_argument("--namespace", required=True, help="of the services")
    run.add_argument(
        "--pickers",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="whom to ask what arrives and waits; a name of all of them",
    )
    run.add_argument("--runtime-token", type=Path, metavar="FILE", help="shown to sidecars; read anew as it rotates")
    name = os.environ.get("POD_NAME") or socket.gethostname()
    run.add_argument("--identity", default=name, help="name in the Lease; default: the pod's")
    run.add_argument("--bind", default="0.0.0.0")
    run.add_argument("--http-port", type=int, default=9090, help="metrics, health and state; 0: any that is free")
    run.add_argument("--api", metavar="URL", help="API server, instead of the cluster around it")
    run.add_argument("--api-token", type=Path, metavar="FILE")
    run.add_argument("--ca", type=Path, metavar="FILE", help="certificate of --api's authority")
    why = commands.add_parser("explain", help="why a service has so many replicas")
    why.add_argument("service")
    why.add_argument("--address", required=True, help="HOST:PORT of a controller")
    return parser


if __name__ == "__main__":
    sys.exit(main())
