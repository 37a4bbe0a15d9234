"""What adapters in a batch add to a step, on a GPU: the linear layers of Llama 3.1 8B with and without LoRA of rank 16.

`python -m tests.bench.lora_gpu`, with torch and a CUDA device; needs nothing else of ours. The products of a step are captured in a CUDA
graph, as engines do; tokens are dealt out evenly to the adapters, and each module adds two batched products and a sum. Engines fuse
those further, and have attention, norms and a scheduler besides, which are the same on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LAYERS, RANK, ROUNDS = 32, 16, 30
MODULES = {"qkv": (4096, 6144), "o": (4096, 4096), "gate_up": (4096, 28672), "down": (14336, 4096)}


def captured(torch: Any, step: Callable[[], None]) -> Any:
    """The step as a graph, after a warm-up."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def milliseconds(torch: Any, graph: Any) -> float:
    """Of one replay, the median."""
    times = []
    for _ in range(ROUNDS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return float(sorted(times)[len(times) // 2])


def main() -> None:
    import torch

    def made(*shape: int) -> Any:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.01

    weights = [{name: made(into, out) for name, (into, out) in MODULES.items()} for _ in range(LAYERS)]
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; linear layers of Llama 3.1 8B, LoRA of rank {RANK}"
    )
    print("| tokens, adapters | base | with LoRA | more |")
    print("|---|---|---|---|")
    for tokens, adapters in ((8, 8), (32, 8), (32, 32), (128, 32), (512, 8), (2048, 8), (8192, 8)):
        given = {name: made(tokens, into) for name, (into, _) in MODULES.items()}
        pairs = {name: (made(adapters, into, RANK), made(adapters, RANK, out)) for name, (into, out) in MODULES.items()}

        def base(given: Any = given) -> None:
            for layer in weights:
                for name, weight in layer.items():
                    given[name] @ weight

        def lora(given: Any = given, pairs: Any = pairs, adapters: int = adapters, tokens: int = tokens) -> None:
            for layer in weights:
                for name, weight in layer.items():
                    out = given[name] @ weight
                    a, b = pairs[name]
                    grouped = given[name].view(adapters, tokens // adapters, -1)
                    out.view(adapters, tokens // adapters, -1).baddbmm_(torch.bmm(grouped, a), b)

        plain, more = (milliseconds(torch, captured(torch, step)) for step in (base, lora))
        print(
            f"| {tokens}, {adapters} | {plain:.2f} ms | {more:.2f} ms | {more - plain:.2f} ms, {more / plain - 1:.0%} |"
        )


if __name__ == "__main__":
    main()
