"""From a plan to what is simulated, and what of it a simulation can not honour: that is refused, not ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aibrix_compile.diagnostics import Problem
from aibrix_compile.plan import PoolPlan, ServicePlan
from aibrix_compile.policy import placement, routing
from aibrix_compile.policy.profile import LORA_TOKEN_SHARE, Profile, slower
from aibrix_compile.simulate.engine import Limits
from aibrix_compile.simulate.fleet import Pool, Setup


def refused(service: ServicePlan) -> list[Problem]:
    """Why a service can not be simulated."""
    found = []
    if service.routing.strategy not in routing.STRATEGIES:
        message = f"routing by {service.routing.strategy} is your own code, which a simulation does not run"
        hint = "simulate with --set routing.strategy=cost to see a strategy of ours"
        found.append(Problem("AC611", ("spec", "routing", "strategy"), message, hint))
    for pool in service.pools:
        if pool.speed.profile.kv_tokens < 1:
            message = f"pool {pool.name} has no room for a KV cache"
            found.append(Problem("AC611", pool.path, message, "see explain for its memory"))
    return found


def setup(
    service: ServicePlan,
    block_tokens: int,
    seed: int = 0,
    profiles: Mapping[str, Profile] | None = None,
    factor: float = 1.0,
    warm_us: int = 0,
) -> Setup:
    """What is simulated: `block_tokens` of the trace, `profiles` by pool instead of the plan's, every engine's times
    multiplied by `factor`, of which pickers know nothing."""
    pools = tuple(
        _pool(service, pool, (profiles or {}).get(pool.name, pool.speed.profile), factor) for pool in service.pools
    )
    chosen = service.routing
    weights = (
        {name: float(weight) for name, weight in chosen.parameters.items()} if chosen.strategy == "weighted" else {}
    )
    return Setup(
        pools=pools,
        routing=routing.Config(chosen.strategy, chosen.fallback, weights),
        block_tokens=block_tokens,
        hold_us=round(chosen.hold_seconds * 1e6),
        warm_us=warm_us,
        seed=seed,
        adapters=tuple(
            placement.Adapter(one.name, one.least, one.everywhere, one.priority) for one in service.adapters.items
        )
        if service.adapters
        else None,
        when_missing=service.adapters.when_missing if service.adapters else "hold",
    )


def price(pool: PoolPlan) -> float | None:
    """Of one replica for an hour; None where nobody knows it."""
    return float(pool.cost_per_replica_hour.split()[0]) if pool.cost_per_replica_hour else None


def currency(service: ServicePlan) -> str:
    """That of the prices; empty without any."""
    found = {pool.cost_per_replica_hour.split()[-1] for pool in service.pools if pool.cost_per_replica_hour}
    return min(found) if len(found) == 1 else ""


def _pool(service: ServicePlan, pool: PoolPlan, profile: Profile, factor: float) -> Pool:
    speed, adapters = pool.speed, service.adapters
    limits = Limits(
        max_num_seqs=speed.max_num_seqs,
        max_num_batched_tokens=speed.max_num_batched_tokens,
        prefix_caching=speed.prefix_caching,
        max_loras=adapters.max_loaded if adapters else 1,
        max_cpu_loras=adapters.max_cached if adapters else 1,
        lora_step_us=adapters.step_ms * 1000 * factor if adapters else 0.0,
        lora_token_share=LORA_TOKEN_SHARE,
    )
    bounds, known = pool.bounds, replace(profile, kv_tokens=speed.profile.kv_tokens)
    return Pool(
        name=pool.name,
        profile=slower(known, factor),
        known=known,
        limits=limits,
        max_model_len=pool.sizing.max_model_len,
        replicas=pool.replicas,
        low=bounds.low if bounds else pool.replicas,
        high=bounds.high if bounds else pool.replicas,
        start_us=pool.startup_seconds * 1_000_000,
        gpus=pool.gpus * pool.nodes,
        cost_per_hour=price(pool),
    )
