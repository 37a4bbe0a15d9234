"""`python -m aibrix_controllers.adapters run | explain`. A mistake is one line and exit status 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from aibrix_compile.policy.placement import RATE
from aibrix_controllers.kube import process
from aibrix_controllers.kube.api import Api


def main(arguments: Sequence[str] | None = None) -> int:
    asks, why = "what is asked for", "why an adapter is where it is, or is not"
    parser, own = process.parser("adapters", __doc__, "place adapters", asks, "ADAPTER", why)
    own.add_argument(
        "--rate",
        type=_rate,
        default=RATE,
        help=f"requests/s of one adapter that one replica should carry (default: {RATE:g})",
    )
    options = parser.parse_args(arguments)

    async def run(api: Api) -> None:
        from aibrix_controllers.adapters.controller import Settings
        from aibrix_controllers.adapters.server import Server

        pickers = tuple(options.pickers)
        settings = Settings(options.namespace, options.identity, pickers, options.runtime_token, options.rate)
        await Server(settings, api, options.http_port, options.bind).run()

    return process.execute(options, run)


def _rate(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
