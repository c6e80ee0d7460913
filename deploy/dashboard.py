"""The Grafana dashboard of the chart, as a table of its panels: `generate.py` writes `files/dashboard.json` from it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

HEIGHT, WIDTH, COLUMNS = 8, 8, 3
SELECTED = 'namespace=~"$namespace"'


class Panel(NamedTuple):
    """A graph: its title, its unit as Grafana names it, and legends with their queries."""

    title: str
    unit: str
    queries: dict[str, str]


def _rate(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{SELECTED}{more}}}[$__rate_interval]))"


def _quantile(share: float, metric: str, by: str) -> str:
    return f"histogram_quantile({share}, {_rate(f'{metric}_bucket', f'le, {by}')})"


PANELS = (
    Panel("Requests", "reqps", {"{{route}}": _rate("shardgate_http_requests_total", "route")}),
    Panel("Requests by status", "reqps", {"{{status}}": _rate("shardgate_http_requests_total", "status")}),
    Panel(
        "Time of requests, 95 %",
        "s",
        {"{{route}}": _quantile(0.95, "shardgate_http_request_duration_seconds", "route")},
    ),
    Panel("Bytes to readers", "Bps", {"{{bucket}}": _rate("shardgate_http_sent_bytes_total", "bucket")}),
    Panel("Reads, by how they were obtained", "reqps", {"{{cache}}": _rate("shardgate_reads_total", "cache")}),
    Panel("Bodies broken off", "cps", {"{{code}}": _rate("shardgate_http_aborted_total", "code")}),
    Panel(
        "Cache",
        "bytes",
        {
            "used {{pod}}": f"shardgate_cache_used_bytes{{{SELECTED}}}",
            "capacity {{pod}}": f"shardgate_cache_capacity_bytes{{{SELECTED}}}",
        },
    ),
    Panel(
        "Evicted, bypassed, damaged",
        "cps",
        {
            "evicted": _rate("shardgate_cache_evictions_total", "namespace"),
            "bypassed": _rate("shardgate_cache_bypasses_total", "namespace"),
            "damaged": _rate("shardgate_cache_damaged_entries_total", "namespace"),
        },
    ),
    Panel(
        "The cache's disk",
        "short",
        {
            "writable {{pod}}": f"shardgate_cache_writable{{{SELECTED}}}",
            "{{error}}": _rate("shardgate_cache_disk_errors_total", "error"),
        },
    ),
    Panel("Requests to stores", "reqps", {"{{bucket}}": _rate("shardgate_upstream_requests_total", "bucket")}),
    Panel("Errors of stores", "cps", {"{{bucket}} {{code}}": _rate("shardgate_upstream_errors_total", "bucket, code")}),
    Panel(
        "Time until stores answer, 95 %",
        "s",
        {"{{bucket}}": _quantile(0.95, "shardgate_upstream_request_duration_seconds", "bucket")},
    ),
    Panel("Bytes from stores", "Bps", {"{{bucket}}": _rate("shardgate_upstream_received_bytes_total", "bucket")}),
    Panel("Samples", "cps", {"{{transform}}": _rate("shardgate_etl_samples_total", "transform")}),
    Panel("Shards that workers had", "cps", {"{{outcome}}": _rate("shardgate_etl_jobs_total", "outcome")}),
    Panel(
        "Wait for a worker, 95 %",
        "s",
        {"{{transform}}": _quantile(0.95, "shardgate_etl_queue_duration_seconds", "transform")},
    ),
    Panel("CPU of the gateways", "none", {"{{pod}}": _rate("process_cpu_seconds_total", "pod")}),
    Panel("Memory of the gateways", "bytes", {"{{pod}}": f"process_resident_memory_bytes{{{SELECTED}}}"}),
)


def text() -> str:
    """The dashboard in JSON, as Grafana imports it."""
    namespaces = {
        "name": "namespace",
        "label": "Namespace",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": "label_values(shardgate_build_info, namespace)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
    }
    sources = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    dashboard = {
        "title": "shardgate",
        "uid": "shardgate",
        "tags": ["shardgate"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [sources, namespaces]},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }
    return json.dumps(dashboard, indent=1) + "\n"


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS)
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": source,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": column * WIDTH, "y": row * HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend, "datasource": source}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }
