"""A small Llama for the engine: a configuration and a tokenizer whose tokens are words. It has no weights; the engine makes
random ones (`--load-format dummy`), because a step takes as long with them as with real ones.

Sized so that a step takes about 20 ms on one core: long beside what HTTP costs, short enough for hundreds of answers.
"""

import json
from pathlib import Path

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY = 6, 768, 2048, 12, 4, 2048
CONTEXT = 4096
DUMMY = ("--load-format", "dummy", "--dtype", "float32", "--max-model-len", str(CONTEXT))
"""What to start the engine with."""


def write(folder: Path) -> Path:
    """The model in a folder, which may be there already: some kilobytes."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HIDDEN // HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float32",
    }
    absent = ("truncation", "padding", "normalizer", "post_processor", "decoder")
    words: dict[str, object] = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        **dict.fromkeys(absent),
    }
    words["model"] = {"type": "WordLevel", "vocab": {f"w{n}": n for n in range(VOCABULARY)}, "unk_token": "w0"}
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "w0", "eos_token": "w1", "unk_token": "w0"}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("config", config), ("tokenizer", words), ("tokenizer_config", tokenizer)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
