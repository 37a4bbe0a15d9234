"""Plan -> what Prometheus scrapes of the gateway and when it calls somebody: PodMonitors and a PrometheusRule.

Series of Envoy and the picker get the labels that all queries go by: environment, role, pod, and for Envoy's clusters the
service that they belong to.
"""

from __future__ import annotations

from aibrix_compile.artifact import Object
from aibrix_compile.backends.gateway import alerts, workloads
from aibrix_compile.backends.gateway.clusters import ADMIN
from aibrix_compile.backends.gateway.workloads import GATEWAY, METRICS, OPS, PICKER, Port
from aibrix_compile.backends.objects import scraped
from aibrix_compile.plan import EnvironmentPlan, GatewayPlan

UNWANTED = (
    "envoy_cluster_(external|internal)_.*",
    "envoy_listener_(admin|http|worker)_.*",
    "envoy_(cluster|http|listener)_.*_cx_(connect|length)_ms_.*",
    "envoy_(dns_cares|filesystem|main_thread|runtime|thread_local_cluster_manager|workers)_.*",
)
"""Dropped: what stands there once more by who answered, by listener or by thread; buckets of connections; Envoy's inside."""


def objects(environment: EnvironmentPlan, gateway: GatewayPlan) -> list[Object]:
    """PodMonitors if some service wants one, rules if some service wants alerts."""
    wanted = [service.monitoring for service in environment.services if service.monitoring]
    found = []
    if any(one.pod_monitor for one in wanted):
        found.append(_pod_monitor(environment, gateway, gateway.name, GATEWAY, OPS))
        if gateway.picker:
            found.append(_pod_monitor(environment, gateway, gateway.picker, PICKER, METRICS))
    if any(one.alerts for one in wanted):
        found.append(_prometheus_rule(environment, gateway))
    return found


def _pod_monitor(environment: EnvironmentPlan, gateway: GatewayPlan, name: str, role: str, port: Port) -> Object:
    labels = {
        "environment": "label_serving_aibrix_ai_gateway",
        "role": "label_serving_aibrix_ai_role",
        "pod": "name",
    }
    endpoint = scraped(port.name, labels)
    if role == GATEWAY:
        services = "|".join(service.name for service in environment.services)
        cluster = {"sourceLabels": ["envoy_cluster_name"]}
        endpoint["metricRelabelings"] = [
            {"action": "drop", "sourceLabels": ["__name__"], "regex": "|".join(UNWANTED)},
            {"action": "drop", **cluster, "regex": ADMIN},
            # a service's own cluster, and the one with its stand-in behind it
            {"action": "replace", **cluster, "regex": f"({services})([.]spill)?", "targetLabel": "service"},
        ]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": workloads.metadata(environment.name, gateway, name, role),
        "spec": {
            "selector": {"matchLabels": workloads.selector(environment.name, role)},
            "podMetricsEndpoints": [endpoint],
        },
    }


def _prometheus_rule(environment: EnvironmentPlan, gateway: GatewayPlan) -> Object:
    labels = {"namespace": gateway.namespace, "environment": environment.name, "gateway": gateway.name}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": workloads.metadata(environment.name, gateway, gateway.name, GATEWAY),
        "spec": {
            "groups": [
                {
                    "name": f"{gateway.namespace}.{gateway.name}.{group}",
                    "rules": [
                        {
                            "alert": one.name,
                            "expr": f"{one.expression}\n",  # a block of its own in the YAML
                            "for": one.hold,
                            "labels": {**labels, **one.labels, "severity": one.severity},
                            "annotations": {"summary": one.summary, "description": one.description},
                        }
                        for one in found
                    ],
                }
                for group, found in alerts.groups(environment, gateway).items()
                if found
            ]
        },
    }
