"""What all dashboards share: how a panel is drawn, where it stands, and the document around them.

No dashboard names a data source: one is chosen in Grafana. A uid comes from names, so links to it survive every build.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Json = dict[str, Any]
Target = tuple[str, str]
"""An expression and its legend."""
Row = tuple[str, list[Json]]
"""A title and the panels below it."""

LABEL = {"grafana_dashboard": "1"}
"""Of a ConfigMap that Grafana's sidecar loads."""
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT, _UID = 24, 8, 40


def uid_of(environment: str, namespace: str, name: str) -> str:
    """One for each name, environment and namespace; Grafana takes 40 characters. The sidecar's folder is flat, so it names
    the file, too."""
    mark = hashlib.sha256(f"{environment}/{namespace}/{name}".encode()).hexdigest()[:8]
    return f"{environment}-{name}"[: _UID - 9].rstrip("-") + f"-{mark}"


def document(
    name: str, title: str, description: str, tags: list[str], variables: list[Json], rows: Iterable[Row]
) -> Json:
    """The whole document; `name` is its uid."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return {
        "uid": name,
        "title": title,
        "description": description,
        "tags": tags,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [source, *variables]},
        "annotations": {"list": []},
        "panels": list(_placed(rows)),
    }


def variable(name: str, label: str, selector: str, everything: str = ".*") -> Json:
    """The values of a label of the series that `selector` finds; `everything` is the pattern of "All"."""
    query = f"label_values({selector}, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": everything,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def graph(
    title: str,
    description: str,
    lines: Sequence[Target],
    unit: str,
    *,
    top: float | None = None,
    stacked: bool = False,
) -> Json:
    """Lines over time. What is wanted, and not measured, is dashed."""
    custom: Json = {"drawStyle": "line", "lineWidth": 2, "fillOpacity": 20 if stacked else 0, "showPoints": "never"}
    custom |= {"spanNulls": False, "stacking": {"mode": "normal" if stacked else "none", "group": "A"}}
    dashed = [
        {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}},
        {"id": "custom.lineWidth", "value": 1},
    ]
    return {
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "min": 0,
                **({} if top is None else {"max": top}),
                "color": {"mode": "palette-classic"},
                "custom": custom,
            },
            "overrides": [
                {"matcher": {"id": "byRegexp", "options": "/^objective| (wanted|at least)$/"}, "properties": dashed}
            ],
        },
        "options": {
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "range": True,
            }
            for index, (expression, legend) in enumerate(lines)
        ],
    }


def _placed(rows: Iterable[Row]) -> Iterator[Json]:
    """Each row's panels side by side, with numbers and places."""
    number, top = 1, 0
    for title, panels in rows:
        place = {"h": 1, "w": _WIDTH, "x": 0, "y": top}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        width = _WIDTH // max(1, min(len(panels), 4))
        for index, panel in enumerate(panels):
            column, line = index % 4 * width, index // 4 * _HEIGHT
            yield {
                "id": number + 1 + index,
                **panel,
                "gridPos": {"h": _HEIGHT, "w": width, "x": column, "y": top + 1 + line},
            }
        number += 1 + len(panels)
        top += 1 + _HEIGHT * -(-len(panels) // 4)
