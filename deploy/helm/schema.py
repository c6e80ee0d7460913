"""The part of `values.schema.json` that follows from the gateway's settings: `python deploy/helm/schema.py`.

`config` and `buckets` in the chart's values are settings under their own names, so helm can refuse a wrong one before any
pod does. `$defs` of the schema is written by this file, the rest by hand. What the chart decides itself (ports, folders,
secrets) is no value, and left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shardgate_gateway.settings import Settings

SCHEMA = Path(__file__).parent / "shardgate" / "values.schema.json"
CHART_DECIDES = {
    "Settings": {"state", "buckets"},
    "ServeSettings": {"host", "port", "token", "workers", "drain_seconds"},
    "CacheSettings": {"dir"},
    "EtlSettings": {"runner", "python"},
    "KubernetesSettings": {"kubeconfig", "namespace", "instance", "owner", "images", "pull_policy", "pull_secrets"},
}
"""Settings that are made of other values."""
FOR_PEOPLE = ("title", "default", "description")


def definitions() -> dict[str, Any]:
    """The settings' schema, without what the chart decides and without prose."""
    whole = Settings.model_json_schema()
    found = {**whole.pop("$defs"), "Settings": whole}
    for name, fields in CHART_DECIDES.items():
        missing = fields - found[name]["properties"].keys()
        if missing:
            raise SystemExit(f"{name} has no setting {', '.join(sorted(missing))} any more: see CHART_DECIDES")
        for field in fields:
            del found[name]["properties"][field]
    used = {"Settings": _bare(found["Settings"]), "BucketSettings": _bare(found["BucketSettings"])}
    while missing := {name for name in found if f'"#/$defs/{name}"' in json.dumps(used)} - used.keys():
        used |= {name: _bare(found[name]) for name in missing}
    return dict(sorted(used.items()))


def render(schema: str) -> str:
    """The schema with its `$defs` as they should be."""
    return json.dumps(json.loads(schema) | {"$defs": definitions()}, indent=2) + "\n"


def _bare(node: Any, *, names: bool = False) -> Any:
    """Without prose; `names` says that the keys of this node are names of settings."""
    if isinstance(node, list):
        return [_bare(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _bare(value, names=key == "properties") for key, value in node.items() if names or key not in FOR_PEOPLE
    }


if __name__ == "__main__":
    SCHEMA.write_text(render(SCHEMA.read_text()))
