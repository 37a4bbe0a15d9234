"""What engines reported when they started, against the sum that is done before anything runs.

Each row is a start-up log that somebody published: the weights that loading took, and the room left for the KV cache in
GiB or as a number of tokens. Weights are to agree within 5 %, the room within 12 % or 1.5 GiB, whichever is more.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from aibrix_compile.catalog import accelerators, models
from aibrix_compile.passes.sizing import Split, kv_bytes, loaded, size
from aibrix_compile.plan import Sizing

GIB = 2**30
GEFORCE = {"geforce-3090": 24576, "geforce-4090": 24564}
"""Not in the catalog; nvidia-smi's total in MiB."""


@dataclass(frozen=True)
class Published:
    model: str
    gpu: str
    engine: str
    utilization: float
    batch: tuple[int, int]
    """Tokens and sequences of one step, as set or the engine's defaults of that version."""
    weights: float
    room: float = 0.0
    tokens: int = 0
    tensor: int = 1
    pipeline: int = 1
    kv: int = 2
    link: str = ""

    @property
    def split(self) -> Split:
        return Split(self.tensor, self.pipeline, self.utilization, self.kv, *self.batch, 0, 0)

    @property
    def memory(self) -> int:
        card = accelerators.find(self.gpu)
        return (card.memory_mib if card else GEFORCE[self.gpu]) * 2**20

    @property
    def sizing(self) -> Sizing:
        shape = models.find(self.model)
        assert shape is not None
        return size(shape, loaded(shape, ""), self.memory, self.split, 8192)

    @property
    def kv_room(self) -> float:
        """GiB of one GPU; tokens are counted by what they take there."""
        shape = models.find(self.model)
        assert shape is not None
        return self.room or kv_bytes(shape, self.tokens, self.split) / GIB


SMALL, H100, OFFLINE = (2048, 256), (8192, 1024), (16384, 1024)
SMART_GRID = "https://github.com/HPML6998-S26-Team13/hpml-assetopsbench-smart-grid-mcp/blob/"
RUN = "cell_Y_plan_execute/raw/8998340_exp2_cell_Y_pe_mcp_baseline/vllm.log"
RUN_A100 = "cell_A_direct/raw/final5x6_a100_20260503T090200Z_A_final5x6_aat_direct/vllm.log"
RUN_H100 = "cell_Z_hybrid/raw/8998343_exp2_cell_Z_verified_pe_self_ask_mcp_baseline/vllm.log"
L40S = "https://github.com/samilazrak/vllm-optimization-lab/blob/a7b193a33a718b3cb3f95476791932afdf599c2b/results/raw/"
TWO_GPUS = "https://github.com/kubesimplify/website/blob/8b1d2a5c3e94d3fad7aebfef7cecfa10b6bcc21b/content/blog/running-a-single-llm-across-two-gpus-with-vllm.md"
COLD_START = "https://github.com/alexostapiuk11/coldstart-recon-worker/blob/2ff865acdad054b303e7a6b86d28e82ab8f14a6d/fixtures/README.md"
TENDER = (
    "https://github.com/satyan0/stress-testing-gpu/blob/e92e37bdff31c6afaa6161c3f5860ec59a04f9da/results/BASELINE.md"
)
LLAMA, QWEN = "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-"

# fmt: off
ROWS = [
    Published(QWEN + "14B-AWQ", "nvidia-l40s", "0.29.0", 0.92, SMALL, 9.44, 29.09, link=L40S + "awq.startup.log"),
    Published(QWEN + "14B-AWQ", "nvidia-l40s", "0.29.0", 0.95, (8192, 512), 9.44, 30.03, link=L40S + "tuned.startup.log"),
    Published(QWEN + "32B", "nvidia-rtx-pro-6000", "0.27.1", 0.426, H100, 30.59, 8.22, tensor=2, link=TWO_GPUS),
    Published(QWEN + "32B", "nvidia-rtx-pro-6000", "0.27.1", 0.426, H100, 30.52, 6.92, pipeline=2, link=TWO_GPUS),
    Published(QWEN + "8B", "geforce-4090", "0.27.1", 0.92, SMALL, 15.27, 4.92, link=COLD_START),
    Published(QWEN + "8B", "geforce-4090", "0.27.1", 0.92, SMALL, 15.27, tokens=43040, link=COLD_START),
    # quantised to fp8 while it is loaded, which gives the bytes of this repository
    Published("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "nvidia-rtx-pro-6000", "0.23.0", 0.9, OFFLINE, 67.7, 14.54, link=TENDER),
    Published("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "nvidia-rtx-pro-6000", "0.23.0", 0.875, OFFLINE, 67.7, 12.17, link=TENDER),
    Published(LLAMA, "nvidia-a100-40g", "0.19.0", 0.9, SMALL, 14.99, 19.42,
        link=SMART_GRID + "4b3523cca79aa119ab7fccb51e4ce9ce0f868749/benchmarks/" + RUN_A100),
    Published(LLAMA, "nvidia-rtx-a6000", "0.19.0", 0.9, SMALL, 14.99, 27.08,
        link=SMART_GRID + "4b3523cca79aa119ab7fccb51e4ce9ce0f868749/benchmarks/" + RUN),
    Published(LLAMA, "nvidia-h100-nvl-94g", "0.19.0", 0.9, H100, 14.99, 66.59,
        link=SMART_GRID + "92bca8f1cb123721aa5e98a660e9ba914c2e58e9/benchmarks/" + RUN_H100),
    # the engine pads mxfp4 experts of 2880 columns to 3072
    Published("openai/gpt-oss-20b", "nvidia-a100-80g", "0.19.0", 0.65, SMALL, 13.72, 36.56,
        link="https://myoceane.fr/index.php/ai-vllm-a100-gemma-4/"),
    Published("Qwen/Qwen2.5-14B-Instruct", "amd-mi300x", "0.17.1", 0.9, (16384, 1024), 27.63, 141.96,
        link="https://github.com/nandorfivince/paperhawk/blob/893f90b25dc5c1c2202e09cb21d47c325ecedfd1/docs/AMD_DEPLOYMENT.md"),
    Published(QWEN + "30B-A3B", "nvidia-a10", "0.8.5", 0.9, SMALL, 14.2474, tokens=198784, tensor=4,
        link="https://github.com/vllm-project/vllm/issues/17469"),
    # before the V1 engine: a whole context in one step
    Published("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "geforce-4090", "V0", 0.98, SMALL, 13.9476, 8.69, tensor=2,
        link="https://github.com/vllm-project/vllm/issues/13061"),
    Published(LLAMA, "geforce-3090", "V0", 0.9, (20000, 256), 14.9888, 3.81,
        link="https://github.com/vllm-project/vllm/issues/10517"),
    Published("meta-llama/Meta-Llama-3-8B", "nvidia-h100-80g", "V0", 0.9, (8192, 256), 14.96, 53.29,
        link="https://github.com/vllm-project/vllm/pull/10511"),
    Published(QWEN + "14B", "nvidia-l40s", "0.29.0", 0.92, SMALL, 27.52, 11.06, link=L40S + "base.startup.log"),
    Published("openai/gpt-oss-120b", "nvidia-h100-80g", "0.11.2", 0.96, (2048, 6), 65.9651, 8.99,
        link="https://blog.huikang.dev/2025/12/28/vllm-logs.html"),
]
# fmt: on


def label(row: Published) -> str:
    return f"{row.model}-{row.gpu}-{row.tensor * row.pipeline}-{row.utilization}-{row.engine}"


@pytest.mark.parametrize("row", ROWS, ids=label)
def test_weights_are_what_loading_took(row: Published) -> None:
    assert row.sizing.weights / GIB == pytest.approx(row.weights, rel=0.05)


def agrees(row: Published) -> bool:
    return abs(row.sizing.kv_room / GIB - row.kv_room) <= max(0.12 * row.kv_room, 1.5)


@pytest.mark.parametrize("row", ROWS, ids=label)
def test_room_for_the_kv_cache_is_what_was_left(row: Published) -> None:
    assert agrees(row), f"{row.sizing.kv_room / GIB:.2f} GiB here, {row.kv_room:.2f} GiB in {row.link}"


def test_the_table_is_broad() -> None:
    assert len({row.model for row in ROWS}) >= 8
    assert len({row.gpu for row in ROWS}) >= 8
    assert {row.tensor for row in ROWS} >= {1, 2, 4}
    assert all(row.link for row in ROWS)
