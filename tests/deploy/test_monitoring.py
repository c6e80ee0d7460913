"""What the chart gives Prometheus and Grafana speaks of metrics that there are, and of runbooks that there are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Any

import chart
import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from shardgate_gateway import metrics
from shardgate_gateway.cache.cache import CacheStat
from shardgate_gateway.cache.counters import Counters
from shardgate_gateway.http.observed import build_metric, cache_metrics

ALERTS = chart.CHART / "files" / "alerts.yaml"
RUNBOOK = chart.ROOT / "docs" / "operations.md"
PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")
OF_PROCESSES = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "shardgate_workers"}
OF_KUBERNETES = {"namespace", "pod", "le"}


def known() -> dict[str, set[str]]:
    """Every name of a series, with its labels."""
    found: dict[str, set[str]] = {name: set() for name in OF_PROCESSES}
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            labels = set(metric._labelnames)
            ends = {Counter: ("_total",), Gauge: ("",), Histogram: ("_bucket", "_count", "_sum")}[type(metric)]
            found |= {f"{metric._name}{end}": labels for end in ends}
    for family in (*cache_metrics(CacheStat(0, 0, 0, 0, Counters())), build_metric()):
        found[family.name] = {label for sample in family.samples for label in sample.labels}
    return found


def expressions() -> list[str]:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    board = json.loads((chart.CHART / "files" / "dashboard.json").read_text())
    return [rule["expr"] for rule in rules] + [
        target["expr"] for panel in board["panels"] for target in panel["targets"]
    ]


@pytest.mark.parametrize("expression", expressions())
def test_rules_and_dashboard_ask_for_series_and_labels_that_there_are(expression: str) -> None:
    series = set(re.findall(r"\b(?:shardgate|process)_\w+", expression))
    assert series
    assert series <= known().keys()
    labels = set().union(*(known()[name] for name in series)) | OF_KUBERNETES
    used = {name for inside in re.findall(r"\{([^}]*)\}", expression) for name in re.findall(r"(\w+)\s*[=!]", inside)}
    used |= {name.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for name in group.split(",")}
    assert used <= labels


def test_each_alert_has_a_section_that_says_what_to_do() -> None:
    sections = {
        f"docs/operations.md#{name.lower()}" for name in re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    }
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["runbook"] in sections
            assert rule["annotations"]["runbook"].endswith(rule["alert"].lower())
            assert rule["annotations"]["summary"].endswith(".")
            assert rule["labels"]["severity"] in {"warning", "critical"}


@pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed, nor named by PROMTOOL")
def test_promtool_takes_the_rules() -> None:
    done = subprocess.run([str(PROMTOOL), "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chart_hands_both_on_unchanged_and_only_where_they_are_wanted() -> None:
    wanted = {"metrics.rules.enabled": True, "metrics.rules.labels.release": "p", "metrics.dashboard.enabled": True}
    objects = {(each["kind"], each["metadata"]["name"]): each for each in chart.render(**wanted)}
    rule = next(each for (kind, _), each in objects.items() if kind == "PrometheusRule")
    board = next(each for (_, name), each in objects.items() if name.endswith("-dashboard"))
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())
    assert rule["metadata"]["labels"]["release"] == "p"
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["shardgate.json"])["uid"] == "shardgate"
    plain: list[dict[str, Any]] = chart.render()
    assert not any(
        each["kind"] == "PrometheusRule" or each["metadata"]["name"].endswith("-dashboard") for each in plain
    )
