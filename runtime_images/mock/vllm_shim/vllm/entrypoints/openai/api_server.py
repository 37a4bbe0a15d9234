"""`python3 -m vllm.entrypoints.openai.api_server` starts the mock engine."""

import sys

from aibrix_mock.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
