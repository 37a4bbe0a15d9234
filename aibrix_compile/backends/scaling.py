"""Plan -> what scales the service: Kubernetes' own HorizontalPodAutoscaler for `hpa`, one ScalingPolicy for all else."""

from __future__ import annotations

from aibrix_compile.artifact import Artifact, Object, Source
from aibrix_compile.backends.objects import artifact, metadata
from aibrix_compile.diagnostics import Path
from aibrix_compile.plan import Bounds, PoolPlan, ScalingPlan, ServicePlan
from aibrix_compile.policy import profile

_SCALING: Path = ("spec", "scaling")


def emit(service: ServicePlan) -> list[Artifact]:
    wanted = service.scaling
    if wanted is None:
        return []
    folder = f"{service.environment}/{service.name}"
    targets = [(pool, pool.bounds) for pool in service.pools if pool.bounds is not None]
    if wanted.strategy != "hpa":
        sources: dict[Path, Source] = {(): Source(service.name, _SCALING)}
        for number, (pool, _) in enumerate(targets):
            sources[("spec", "targets", number)] = Source(service.name, pool.path)
        return [artifact(folder, _policy(service, wanted, targets), sources)]
    return [
        artifact(folder, _hpa(service, pool, bounds, wanted), {(): Source(service.name, _SCALING)})
        for pool, bounds in targets
    ]


def _hpa(service: ServicePlan, pool: PoolPlan, bounds: Bounds, wanted: ScalingPlan) -> Object:
    """By a pods metric: the cluster's custom metrics adapter serves it under the name that the spec uses."""
    value, unit = wanted.parameters["target"]["value"], wanted.parameters["target"]["unit"]
    milli = round(float(value) * 1000) if unit != "milliseconds" else round(float(value))  # times are served in seconds
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(service, pool.workload, (*_SCALING, "strategy"), pool.name),
        "spec": {
            "scaleTargetRef": _reference(pool),
            "minReplicas": bounds.low,
            "maxReplicas": bounds.high,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": wanted.parameters["metric"]},
                        "target": {
                            "type": "AverageValue",
                            "averageValue": str(milli // 1000) if milli % 1000 == 0 else f"{milli}m",
                        },
                    },
                }
            ],
            # a replica takes minutes to start: grow at once, shrink one at a time after five quiet minutes
            "behavior": {
                "scaleUp": {
                    "stabilizationWindowSeconds": 0,
                    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 60}],
                },
                "scaleDown": {
                    "stabilizationWindowSeconds": 300,
                    "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
                },
            },
        },
    }


def _policy(service: ServicePlan, wanted: ScalingPlan, targets: list[tuple[PoolPlan, Bounds]]) -> Object:
    budget: Object = {"maxGPUs": wanted.max_gpus} if wanted.max_gpus else {}
    if wanted.max_cost_per_hour:
        budget["maxCostPerHour"] = wanted.max_cost_per_hour
    objectives = [
        {"metric": one.metric, "percentile": f"p{one.percentile * 100:g}", "milliseconds": round(one.seconds * 1000)}
        for one in service.objectives
    ]
    spec: Object = {
        "service": service.name,
        "targets": [_target(pool, bounds, wanted.strategy) for pool, bounds in targets],
        "strategy": {wanted.strategy: dict(wanted.parameters)},
        **({"schedules": [dict(one) for one in wanted.schedules]} if wanted.schedules else {}),
        **({"budget": budget} if budget else {}),
        **({"objectives": objectives} if objectives else {}),
        **(
            {"scaleToZeroAfterSeconds": wanted.scale_to_zero_after_seconds}
            if wanted.scale_to_zero_after_seconds
            else {}
        ),
        "warmPool": wanted.warm_pool,
        "seasonal": wanted.seasonal,
    }
    # the definition may come with another Application: a dry run must not fail on it
    annotations = {"argocd.argoproj.io/sync-options": "SkipDryRunOnMissingResource=true"}
    return {
        "apiVersion": "serving.aibrix.ai/v1alpha1",
        "kind": "ScalingPolicy",
        "metadata": metadata(service, service.name, _SCALING, annotations=annotations),
        "spec": spec,
    }


def _target(pool: PoolPlan, bounds: Bounds, strategy: str) -> Object:
    found: Object = {"kind": _kind(pool), "name": pool.workload, "min": bounds.low, "max": bounds.high}
    found["gpusPerReplica"] = pool.gpus * pool.nodes
    if pool.cost_per_replica_hour:
        found["costPerHour"] = pool.cost_per_replica_hour
    found["coldStartSeconds"] = pool.startup_seconds
    return found | ({"profile": profile.written(pool.speed.profile)} if strategy == "slo" else {})


def _kind(pool: PoolPlan) -> str:
    return "Deployment" if pool.nodes == 1 else "LeaderWorkerSet"


def _reference(pool: PoolPlan) -> Object:
    api = "apps/v1" if pool.nodes == 1 else "leaderworkerset.x-k8s.io/v1"
    return {"apiVersion": api, "kind": _kind(pool), "name": pool.workload}
