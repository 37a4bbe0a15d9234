"""LoRA adapters as files, in PEFT's layout, that fit a base model."""

import hashlib
import json
import random
from pathlib import Path

LLAMA = {"q_proj": (4096, 4096), "v_proj": (4096, 1024)}
"""In and out of modules of Llama 3.1 8B."""
FILES = ("adapter_config.json", "adapter_model.safetensors")


def adapter(
    folder: Path, rank: int = 8, seed: int = 0, modules: dict[str, tuple[int, int]] = LLAMA, layers: int = 2
) -> Path:
    """The two files in `folder`, bfloat16; `seed` decides their content."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": sorted(modules), "bias": "none"}
    (folder / FILES[0]).write_text(json.dumps(config))
    header: dict[str, object] = {}
    end = 0
    for layer in range(layers):
        for name, (into, out) in modules.items():
            for half, shape in (("A", [rank, into]), ("B", [out, rank])):
                begin, end = end, end + 2 * shape[0] * shape[1]
                key = f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_{half}.weight"
                header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    data = random.Random(seed).randbytes(1024) * (end // 1024)
    (folder / FILES[1]).write_bytes(len(text).to_bytes(8, "little") + text + data.ljust(end, b"\0"))
    return folder


def digest(folder: Path) -> str:
    """As `sha256sum adapter_config.json adapter_model.safetensors | sha256sum` says it."""
    rows = "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in FILES)
    return f"sha256:{hashlib.sha256(rows.encode()).hexdigest()}"
