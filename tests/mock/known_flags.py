"""vLLM's flags as the mock needs them, from the catalog: `python tests/mock/known_flags.py` writes them anew."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
CATALOG = ROOT / "aibrix_compile/catalog/vllm-0.32.0.json"
FILE = ROOT / "runtime_images/mock/aibrix_mock/flags.json"
KEPT = ("kind", "nargs", "choices", "negatable", "repeatable", "short", "aliases")


def text() -> str:
    flags = json.loads(CATALOG.read_text("utf-8"))["flags"]
    rows = [
        f"{json.dumps(name)}: {json.dumps({key: flag[key] for key in KEPT if key in flag} | _default(name, flag))}"
        for name, flag in sorted(flags.items())
    ]
    return "{\n" + ",\n".join(rows) + "\n}\n"


def _default(name: str, flag: dict[str, object]) -> dict[str, object]:
    return {"default": flag["default"]} if name == "model" else {}


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
