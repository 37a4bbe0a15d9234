"""`python -m aibrix_controllers.scaler run | explain`. A mistake is one line and exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aibrix_controllers.kube import process
from aibrix_controllers.kube.api import Api


def main(arguments: Sequence[str] | None = None) -> int:
    asks, why = "what arrives and waits", "why a service has so many replicas"
    parser, _ = process.parser("scaler", __doc__, "scale services", asks, "SERVICE", why)
    options = parser.parse_args(arguments)

    async def run(api: Api) -> None:
        from aibrix_controllers.scaler.controller import Settings
        from aibrix_controllers.scaler.server import Server

        settings = Settings(options.namespace, options.identity, tuple(options.pickers), options.runtime_token)
        await Server(settings, api, options.http_port, options.bind).run()

    return process.execute(options, run)


if __name__ == "__main__":
    sys.exit(main())
