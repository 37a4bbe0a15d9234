"""Means, totals and ratios: what they may become, and that the type checker refuses the rest."""

import pytest

from aibrix_compile.policy.quantities import PerReplica, Ratio, Total, whole


def test_a_mean_is_not_a_total() -> None:
    target = PerReplica(0.5)
    mean = PerReplica(0.9)
    assert whole(mean.against(target).of(6)) == 11  # and not 3, as ceil(0.9 / 0.5) + 1 would have it
    assert whole(mean.times(6).replicas(target)) == 11
    assert Total(5.4).each(6) == mean
    assert PerReplica(1) != Total(1) != Ratio(1)


@pytest.mark.parametrize(
    ("code", "refused"),
    [
        ("Total(1).replicas(Total(2))", True),
        ("PerReplica(1).replicas(PerReplica(2))", True),
        ("PerReplica(1) / PerReplica(2)", True),
        ("Total(1).plus(PerReplica(1))", True),
        ("Total(1).replicas(PerReplica(2))", False),
    ],
)
def test_mypy_refuses_to_mix_them(code: str, refused: bool) -> None:
    api = pytest.importorskip("mypy.api")
    line = f"from aibrix_compile.policy.quantities import PerReplica, Ratio, Total; {code}"
    out, _, status = api.run(["--strict", "--config-file=", "-c", line])
    assert (status != 0) == refused, out


@pytest.mark.parametrize(("replicas", "number"), [(3.0, 3), (3 + 1e-12, 3), (0.1 * 3 / 0.1, 3), (3.001, 4), (0.0, 0)])
def test_whole(replicas: float, number: int) -> None:
    assert whole(replicas) == number


@pytest.mark.parametrize(("ratio", "within"), [(1.1, True), (0.9, True), (1.1001, False), (0.8999, False), (1.0, True)])
def test_a_tolerance_includes_its_ends(ratio: float, within: bool) -> None:
    assert Ratio(ratio).within(0.1) is within
