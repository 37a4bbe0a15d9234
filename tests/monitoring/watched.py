"""Services to watch: those of an example, with monitoring turned on, and what their objects hold."""

import dataclasses
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aibrix_compile.artifact import Artifact, Object
from aibrix_compile.backends import dashboards, monitoring
from aibrix_compile.compiler import compile_workspace
from aibrix_compile.loading import load
from aibrix_compile.plan import MonitoringPlan, Objective, ServicePlan

EXAMPLE = Path(__file__).parents[2] / "examples" / "02-environments"
METRICS = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_usage": "vllm:kv_cache_usage_perc",
    "ttft": "vllm:time_to_first_token_seconds",
    "itl": "vllm:inter_token_latency_seconds",
    "e2e": "vllm:e2e_request_latency_seconds",
    "success": "vllm:request_success",
    "preemptions": "vllm:num_preemptions",
    "prompt_tokens": "vllm:prompt_tokens",
    "generation_tokens": "vllm:generation_tokens",
    "prefix_hits": "vllm:prefix_cache_hits",
    "prefix_queries": "vllm:prefix_cache_queries",
    "queue_time": "vllm:request_queue_time_seconds",
}
OBJECTIVES = (Objective("ttft", 0.99, 2.0), Objective("itl", 0.95, 0.075), Objective("e2e", 0.5, 20.0))
ALL = MonitoringPlan(True, True, True, OBJECTIVES, METRICS)


def compiled(name: str = "support-chat", environment: str = "prod") -> ServicePlan:
    (plan,) = compile_workspace(load([], EXAMPLE), build=False, only=[environment]).plans
    return next(service for service in plan.services if service.name == name)


PLAIN = compiled()
"""Four replicas of one pool, l4."""


def service(wanted: MonitoringPlan | None = ALL, **changes: Any) -> ServicePlan:
    return dataclasses.replace(PLAIN, monitoring=wanted, **changes)


def pools(*names: str, **changes: Any) -> dict[str, Any]:
    """The example's pool under other names, with `changes`."""
    return {"pools": tuple(dataclasses.replace(PLAIN.pools[0], name=name, **changes) for name in names)}


def objects(plan: ServicePlan) -> dict[str, Any]:
    return {one.object["kind"]: one.object for one in artifacts(plan)}


def artifacts(plan: ServicePlan) -> list[Artifact]:
    return monitoring.emit(plan) + dashboards.emit(plan)


def rules(plan: ServicePlan) -> list[Any]:
    return [rule for group in objects(plan)["PrometheusRule"]["spec"]["groups"] for rule in group["rules"]]


def dashboard(plan: ServicePlan) -> Any:
    ((_, text),) = objects(plan)["ConfigMap"]["data"].items()
    return json.loads(text)


def panels(plan: ServicePlan) -> list[Any]:
    return [panel for panel in dashboard(plan)["panels"] if panel["type"] != "row"]


def played(
    promtool: Path, folder: Path, spec: Object, by: str, series: Mapping[str, str], minutes: Sequence[int]
) -> list[str]:
    """What promtool says of the alerts that fire after each of the minutes, counted by labels; a sample of each series is one
    minute."""
    (folder / "rules.yaml").write_text(json.dumps(spec))
    expression = f'count by ({by}) (ALERTS{{alertstate="firing"}})'
    # promtool only compares: it is told what can not be, and says what is
    wrong = [{"labels": "{}", "value": -1}]
    asked = [{"expr": expression, "eval_time": f"{minute}m", "exp_samples": wrong} for minute in minutes]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": inputs, "promql_expr_test": asked}
    scenario = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (folder / "test.yaml").write_text(json.dumps(scenario))
    done = subprocess.run([promtool, "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True)
    answers = re.findall(r"got:(.*)", done.stdout + done.stderr)
    assert len(answers) == len(minutes), done.stdout + done.stderr
    return answers


def laid_out(panels: list[Object]) -> None:
    """Each has a number of its own and a place that no other has, and panels say what they show."""
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"] and panel["targets"]
