"""The accelerators: complete, plausible against each other, and selectable on the platforms that offer them."""

import pytest

from aibrix_compile.catalog import accelerators

ALL = [accelerators.find(name) for name in accelerators.names()]


def test_names_are_sorted_and_found() -> None:
    assert len(ALL) >= 28
    assert list(accelerators.names()) == sorted(accelerators.names())
    assert accelerators.find("nvidia-l4").memory_mib == 23034
    assert accelerators.find("nvidia-l5") is None


@pytest.mark.parametrize("gpu", ALL, ids=lambda gpu: gpu.name)
def test_entry_is_complete(gpu: accelerators.Accelerator) -> None:
    assert gpu.name.startswith(f"{gpu.vendor}-")
    assert gpu.resource == f"{gpu.vendor}.com/gpu"
    assert gpu.source
    assert "nfd" in gpu.labels
    assert set(gpu.labels) <= {"gke", "eks", "aks", "nfd"}
    assert all(key and value for labels in gpu.labels.values() for key, value in labels.items())
    assert min(gpu.gpus_per_node, gpu.cpu_per_gpu, gpu.host_memory_gib_per_gpu, gpu.link_gbps) > 0
    assert gpu.price is None or (gpu.price.amount > 0 and gpu.price.currency == "USD" and gpu.price.source)


@pytest.mark.parametrize("gpu", ALL, ids=lambda gpu: gpu.name)
def test_narrower_types_are_not_slower(gpu: accelerators.Accelerator) -> None:
    peaks = [gpu.tflops[dtype] for dtype in ("fp32", "tf32", "bf16", "fp8", "fp4") if dtype in gpu.tflops]
    assert peaks == sorted(peaks)
    assert set(gpu.tflops) <= {"fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4"}


def test_no_two_accelerators_share_a_selector() -> None:
    for platform in ("gke", "eks", "aks", "nfd"):
        selectors = [tuple(sorted(gpu.labels[platform].items())) for gpu in ALL if platform in gpu.labels]
        assert len(selectors) == len(set(selectors)), platform


def test_real_label_values() -> None:
    l4, a100 = accelerators.find("nvidia-l4"), accelerators.find("nvidia-a100-40g")
    assert l4.labels["gke"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    assert l4.labels["nfd"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert "aks" not in l4.labels
    assert a100.labels["gke"] == {"cloud.google.com/gke-accelerator": "nvidia-tesla-a100"}
    assert accelerators.find("amd-mi300x").labels["nfd"] == {"amd.com/gpu.device-id": "74a1"}
