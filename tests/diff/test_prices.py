"""GPUs and money of a month, by hand: an L4 costs 0.71 USD an hour, 518.30 a month; an H100 9.80, 7,154."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from aibrix_compile.diff.compare import compare
from aibrix_compile.diff.prices import Price, Size, size, total
from aibrix_compile.diff.words import rows
from tests.diff import FILES, compiled, edited

SCALING = "\n  scaling: {strategy: {kpa: {target: 8 per replica}}"
H100 = "{name: h100, accelerator: nvidia-h100-80g, replicas: {min: 0, max: 2}}"
MIXED = f"replicas: {{min: 2, max: 6}}}}, {H100}]{SCALING}"

CASES = {
    "fixed": ("replicas: 2}]", (2, 2), (2, 2), ("1036.60", "1036.60", "1036.60")),
    "scaled": (f"replicas: {{min: 1, max: 4}}}}]{SCALING}}}", (1, 4), (1, 4), ("518.30", None, "2073.20")),
    "mixed": (f"{MIXED}}}", (2, 8), (2, 8), ("1036.60", None, "17417.80")),
    "the dearest GPUs count first": (
        f"{MIXED}, budget: {{maxGPUs: 5}}}}",
        (2, 8),
        (2, 5),
        ("1036.60", None, "15862.90"),
    ),
    "a budget of money": (f"{MIXED}, budget: {{maxCostPerHour: 10 USD}}}}", (2, 8), (2, 8), ("1036.60", None, "7300")),
}


@pytest.mark.parametrize("name", CASES)
def test_bounds(name: str, tmp_path: Path) -> None:
    pools, replicas, gpus, (low, expected, high) = CASES[name]
    side = compiled(tmp_path, edited(FILES, ("replicas: 2}]", pools)))
    found = size(side.services["prod", "chat"].plan, lambda pool: None)
    price = Price("USD", Decimal(low), None if expected is None else Decimal(expected), Decimal(high))
    assert found == Size(replicas, gpus, (price,), 0)


def test_expected_replicas_make_an_expected_price(tmp_path: Path) -> None:
    side = compiled(tmp_path, edited(FILES, ("replicas: 2}]", f"{MIXED}}}")))
    plan = side.services["prod", "chat"].plan
    (price,) = size(plan, {"l4": 2.5, "h100": 0.5}.get).prices
    assert price.expected == Decimal("2.5") * Decimal("518.30") + Decimal("0.5") * 7154
    (open_,) = size(plan, {"l4": 2.5}.get).prices
    assert open_.expected is None


def test_a_simulation_of_each_side_fills_the_table(tmp_path: Path) -> None:
    scaled = edited(FILES, ("replicas: 2}]", f"replicas: {{min: 2, max: 4}}}}]{SCALING}}}"))
    base = compiled(tmp_path / "base", scaled)
    head = compiled(tmp_path / "head", edited(scaled, ("max: 4", "max: 6")))
    means = [{("prod", "chat", "l4"): mean} for mean in (2.5, 3.0)]
    sides = [replace(side, expected=mean) for side, mean in zip((base, head), means, strict=True)]
    ((*_, price, _),) = rows(compare(*sides), str)
    assert price == "1,037 / 1,296 / 2,073 USD -> 1,037 / 1,555 / 3,110 USD"


def test_replicas_over_several_nodes_cost_all_their_gpus(tmp_path: Path) -> None:
    large = edited(
        FILES,
        (
            "{name: l4, accelerator: nvidia-l4, replicas: 2}",
            "{name: h, accelerator: nvidia-h100-80g, parallelism: {tensor: 2, pipeline: 8}, replicas: 2}",
        ),
    )
    found = size(compiled(tmp_path, large).services["prod", "chat"].plan, lambda pool: None)
    assert (found.gpus, found.prices[0].low) == ((32, 32), Decimal("9.80") * 32 * 730)


def test_an_unknown_price_is_said_and_never_zero(tmp_path: Path) -> None:
    files = edited(FILES, ("nvidia-l4: {", "nvidia-a40: {"), (", pricePerGPUHour: 0.71 USD", ""))
    side = compiled(tmp_path, edited(files, ("accelerator: nvidia-l4,", "accelerator: nvidia-a40,")))
    assert size(side.services["prod", "chat"].plan, lambda pool: None) == Size((2, 2), (2, 2), (), 2)


def test_currencies_are_never_added() -> None:
    one = Size((1, 1), (1, 2), (Price("EUR", Decimal(1), None, Decimal(2)),), 1)
    other = Size(
        (1, 3),
        (1, 1),
        (Price("USD", Decimal(5), Decimal(6), Decimal(7)), Price("EUR", Decimal(1), Decimal(1), Decimal(1))),
        0,
    )
    prices = (Price("EUR", Decimal(2), None, Decimal(3)), Price("USD", Decimal(5), Decimal(6), Decimal(7)))
    assert total([one, other]) == Size((2, 4), (2, 3), prices, 1)
