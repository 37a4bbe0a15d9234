"""A tiny Llama with weights, and LoRA adapters that change what it says: for tests in which answers matter.

Random weights of a fixed seed; an adapter's are large, so that its answers differ from the base model's from the first token on.
Written without torch: a safetensors file is a header and numbers.
"""

import json
import math
import random
import struct
from pathlib import Path

from aibrix_compile.policy.lora import Base
from tests.engine import model as plain

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY, CONTEXT = 2, 128, 256, 4, 2, 256, 512
HEAD = HIDDEN // HEADS
BASE = Base(LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD, INNER, VOCABULARY)
FLAGS = ("--dtype", "float32", "--max-model-len", str(CONTEXT))
_SIZES = {
    "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}


def write(folder: Path) -> Path:
    """The model in a folder: 1.5 MB."""
    plain.write(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    config |= {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD}
    config |= {"max_position_embeddings": CONTEXT, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    words = json.loads((folder / "tokenizer.json").read_text())
    words["model"]["vocab"] = {f"w{n}": n for n in range(VOCABULARY)}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        shapes |= {f"model.layers.{layer}.{name}.weight": size for name, size in _SIZES.items()}
        shapes |= {
            f"model.layers.{layer}.{name}.weight": (HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")
        }
    save(folder / "model.safetensors", shapes, random.Random(7), 1.5)
    return folder


def adapter(
    folder: Path,
    *,
    seed: int,
    rank: int = 8,
    hidden: int = HIDDEN,
    prefix: str = "base_model.model.model.layers",
    modules: tuple[str, ...] = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"),
) -> Path:
    """In PEFT's layout. `hidden`: the width that it takes the model to have; `prefix`: what it calls the layers."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [name.rpartition(".")[2] for name in modules]
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 4 * rank, "target_modules": names, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    scale, shapes = hidden / HIDDEN, dict[str, tuple[int, ...]]()
    for layer in range(LAYERS):
        for name in modules:
            out, into = (int(one * scale) for one in _SIZES[name])
            shapes[f"{prefix}.{layer}.{name}.lora_A.weight"] = (rank, into)
            shapes[f"{prefix}.{layer}.{name}.lora_B.weight"] = (out, rank)
    save(folder / "adapter_model.safetensors", shapes, random.Random(seed), 3.0)
    return folder


def save(path: Path, shapes: dict[str, tuple[int, ...]], chance: random.Random, spread: float) -> None:
    """Float32, each tensor uniform around 0, narrower the wider it is; norms are ones."""
    header: dict[str, object] = {}
    parts, end = [], 0
    for name, shape in shapes.items():
        count = math.prod(shape)
        width = spread / math.sqrt(shape[-1])
        numbers = [1.0] * count if len(shape) == 1 else [chance.uniform(-width, width) for _ in range(count)]
        parts.append(struct.pack(f"<{count}f", *numbers))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + 4 * count]}
        end += 4 * count
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
