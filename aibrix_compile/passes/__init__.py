"""Spec -> plan: an ordered tuple of functions, each of which decides one thing and says what is wrong with it.

A pass declares the paths that it needs; when decoding or an earlier pass found one of them wrong, it is skipped, so one run
reports every independent mistake and nothing cascades. Passes never see YAML: they speak of spec paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aibrix_compile.diagnostics import Path, Problem, Severity
from aibrix_compile.passes import (
    access,
    adapters,
    engine,
    hardware,
    monitoring,
    names,
    objectives,
    pod,
    replicas,
    routing,
    runtime,
    scaling,
    sizing,
    speed,
    targets,
    weights,
)
from aibrix_compile.passes.draft import Draft, PoolDraft, Site
from aibrix_compile.plan import Decision, PoolPlan, Rollout, ServicePlan, WorkloadPlan
from aibrix_compile.spec.decode import sound
from aibrix_compile.spec.modelservice import ModelService


@dataclass(frozen=True, slots=True)
class Pass:
    """`needs` are paths below `spec`, `pool_needs` below the pool for a pass that runs once a pool; `after` names what
    earlier passes must have found."""

    run: Callable[[Draft], Iterator[Problem]] | None = None
    each_pool: Callable[[Draft, PoolDraft], Iterator[Problem]] | None = None
    needs: tuple[str, ...] = ()
    pool_needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


PASSES = (
    Pass(names.service_names),
    Pass(names.labels),
    Pass(names.served_name, needs=("model.uri", "model.servedName")),
    Pass(names.pool_names),
    Pass(adapters.adapter_names, needs=("adapters.limits", "model.uri", "model.servedName")),
    Pass(adapters.limits, needs=("adapters.limits",)),
    Pass(adapters.room, needs=("adapters", "pools")),
    Pass(adapters.plan, needs=("adapters", "model.credentials")),
    Pass(each_pool=hardware.accelerator, pool_needs=("accelerator", "parallelism")),
    Pass(
        each_pool=hardware.placement,
        needs=("engine.name",),
        pool_needs=("replicas", "spot"),
        after=("accelerator",),
    ),
    Pass(replicas.strategies, needs=("scaling", "slo")),
    Pass(each_pool=replicas.counts, needs=("scaling",), pool_needs=("replicas",)),
    Pass(replicas.rollout, needs=("rollout",)),
    Pass(objectives.objectives, needs=("slo",)),
    Pass(scaling.metrics, needs=("scaling",)),
    Pass(scaling.limits_of_hpa, needs=("scaling",)),
    Pass(scaling.schedules, needs=("scaling",)),
    Pass(scaling.plan, needs=("scaling", "slo")),
    Pass(weights.shape, needs=("model.uri", "model.shape", "model.servedName")),
    Pass(weights.source, needs=("model",)),
    Pass(weights.revision, needs=("model.uri", "model.revision")),
    Pass(weights.cache, needs=("model.loading", "model.uri")),
    Pass(engine.version, needs=("engine.name", "engine.version")),
    Pass(engine.image, needs=("engine.image",), after=("engine",)),
    Pass(engine.flags, needs=("engine.args",), after=("engine",)),
    Pass(pod.environment, needs=("engine.env",)),
    Pass(sizing.context, needs=("engine.maxModelLen",), after=("shape",)),
    Pass(each_pool=sizing.divides, pool_needs=("parallelism",), after=("shape",)),
    Pass(
        each_pool=sizing.memory,
        needs=("engine", "adapters.limits"),
        pool_needs=("accelerator", "parallelism"),
        after=("shape", "engine", "accelerator"),
    ),
    Pass(each_pool=speed.speed, after=("shape", "sizing")),
    Pass(each_pool=engine.command_line, needs=("model", "engine"), after=("shape", "engine")),
    Pass(each_pool=pod.variables, needs=("model", "engine")),
    Pass(pod.storage, needs=("model", "engine"), after=("shape",)),
    Pass(each_pool=pod.volumes, needs=("model", "engine"), after=("shape",)),
    Pass(each_pool=pod.resources, needs=("model", "engine"), pool_needs=("resources",), after=("shape", "accelerator")),
    Pass(adapters.sources, needs=("adapters",)),
    Pass(adapters.modules, needs=("adapters",), after=("shape",)),
    Pass(adapters.demand, needs=("adapters",)),
    Pass(runtime.plan, needs=("adapters", "engine", "model"), after=("shape", "engine")),
    Pass(each_pool=adapters.host_memory, needs=("adapters.limits",), pool_needs=("resources",), after=("shape",)),
    Pass(each_pool=pod.template, pool_needs=("template",)),
    Pass(monitoring.plan, needs=("monitoring", "slo"), after=("engine",)),
    Pass(routing.strategy, needs=("routing.strategy", "adapters")),
    Pass(routing.policy, needs=("routing.whenPickerDown", "access")),
    Pass(access.adapters, needs=("access", "adapters")),
    Pass(routing.retries, needs=("routing.retries",)),
    Pass(pod.config),
    Pass(each_pool=pod.times, needs=("model", "engine", "routing.timeout"), after=("shape",)),
    Pass(routing.times, needs=("routing", "workload", "slo")),
)
TARGET_PASSES = (Pass(targets.unbuilt), Pass(runtime.missing), Pass(each_pool=targets.unbuilt_pool))


def draft(service: ModelService, site: Site, file: str, invalid: set[Path]) -> Draft:
    """The service with nothing decided yet; pools whose name is unsound are left out."""
    pools = []
    for index, pool in enumerate(service.spec.pools):
        path: Path = ("spec", "pools", index)
        if path not in invalid and sound(invalid, (*path, "name" if pool.name else "accelerator")):
            pools.append(PoolDraft(pool, path, pool.name or pool.accelerator.replace(".", "-")))
    return Draft(service.metadata, service.spec, site, file, invalid, pools)


def run(passes: tuple[Pass, ...], work: Draft) -> Iterator[Problem]:
    """Run what can be run; an error's path is marked, so that later passes leave it alone."""
    for one in passes:
        if not all(sound(work.invalid, ("spec", *need.split("."))) for need in one.needs):
            continue
        if any(getattr(work, name, work) is None for name in one.after):
            continue
        if one.run is not None:
            yield from _marked(one.run(work), work)
        if one.each_pool is not None:
            for pool in work.pools:
                whole = all(sound(work.invalid, (*pool.path, need)) for need in one.pool_needs)
                if whole and not any(getattr(pool, name, pool) is None for name in one.after):
                    yield from _marked(one.each_pool(work, pool), work)


def _marked(problems: Iterator[Problem], work: Draft) -> Iterator[Problem]:
    for problem in problems:
        if problem.severity is Severity.ERROR and not problem.code.startswith(
            ("AC4", "AC5")
        ):  # they say no to what is sound
            work.invalid.add(problem.path)
        yield problem


def finish(work: Draft) -> ServicePlan:
    """The plan of a draft in which nothing is wrong."""
    engine_spec, name = work.spec.engine, work.metadata.name
    return ServicePlan(
        name=name,
        environment=work.site.environment.name,
        namespace=work.site.environment.namespace,
        file=work.file,
        labels=dict(work.metadata.labels),
        served_name=work.served_name,
        uri=work.spec.model.uri,
        engine=engine_spec.name,
        engine_version=engine_spec.version,
        image=work.image,
        image_path=("spec", "engine", "image" if engine_spec.image else "version"),
        command=("python3", "-m", "vllm.entrypoints.openai.api_server"),
        port=engine.PORT,
        service=name,
        headless=f"{name}-headless",
        config_map=f"{name}-engine",
        config=dict(work.config),
        config_hash=pod.config_hash(work),
        storage=work.storage,
        objectives=work.objectives,
        scaling=work.scaling,
        routing=routing.plan(work),
        signals=dict(routing.SIGNALS),
        workload=_workload(work),
        adapters=work.adapters,
        runtime=work.runtime,
        tenants=access.plan(work),
        monitoring=work.monitoring,
        pools=tuple(_pool(work, pool) for pool in work.pools),
        decisions=tuple(work.decisions),
    )


def _workload(work: Draft) -> WorkloadPlan | None:
    wanted = work.spec.workload
    return WorkloadPlan(wanted.inputTokens, wanted.outputTokens, wanted.requestsPerSecond) if wanted else None


def _pool(work: Draft, pool: PoolDraft) -> PoolPlan:
    card, sized = pool.accelerator, pool.sizing
    assert card is not None and sized is not None and pool.speed is not None
    budget = (pool.bounds.high if pool.bounds else pool.spec.replicas.low) >= 2
    if not budget:
        work.decisions.append(
            Decision(
                pool.path, "no PodDisruptionBudget", ("with one replica it would only block the draining of nodes",)
            )
        )
    return PoolPlan(
        name=pool.name,
        workload=pool.workload,
        path=pool.path,
        replicas=pool.spec.replicas.low,
        bounds=pool.bounds,
        accelerator=card.name,
        nodes=pool.nodes,
        gpus=pool.pod_gpus,
        gpu_resource=card.resource,
        node_selector=dict(pool.node_selector),
        tolerations=pool.tolerations,
        cpu=pool.cpu,
        memory=pool.memory,
        ephemeral_storage=pool.ephemeral_storage,
        service_account=pool.workload,
        service_account_annotations=dict(pool.spec.serviceAccount.annotations),
        priority_class=pool.spec.priorityClass or "",
        pull_secrets=tuple(pool.spec.imagePullSecrets),
        arguments=pool.arguments,
        worker_arguments=pool.worker_arguments,
        variables=pool.variables,
        volumes=pool.volumes,
        prefetch=pool.prefetch,
        startup_seconds=pool.startup_seconds,
        progress_deadline_seconds=pool.progress_deadline_seconds,
        propagation_seconds=pod.propagation(work),
        drain_seconds=pool.drain_seconds,
        grace_seconds=pool.grace_seconds,
        rollout=pool.rollout or Rollout(1, 0),
        cost_per_replica_hour=pool.cost_per_replica_hour,
        disruption_budget=budget,
        template=pool.spec.template,
        sizing=sized,
        speed=pool.speed,
        cost_per_hour=pool.cost_per_hour,
    )
