"""What a prefetch uses of the hub's client, without a network: the folder appears, with a config and no weights."""

import json
from pathlib import Path

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"}


def snapshot_download(repo_id: str, *, revision: str | None = None, local_dir: str | None = None) -> str:
    """The folder. ValueError without `local_dir`: there is no cache to put it into."""
    if local_dir is None:
        raise ValueError("this stand-in only fills a folder that it is given")
    folder = Path(local_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"_name_or_path": repo_id, "revision": revision}), "utf-8")
    return str(folder)
