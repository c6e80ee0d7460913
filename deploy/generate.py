"""Everything in `deploy/` that follows from something else: `python deploy/generate.py`, or `make chart`.

    dashboard.json       from the table in dashboard.py
    values.schema.json   its `$defs`, from the gateway's settings
    helm README.md       from the comments of values.yaml, by helm-docs
    kubernetes/*.yaml    from the chart, with `kubernetes/values.yaml`

`generated()` says what these files should hold; tests/deploy compares.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

from shardgate_gateway.settings import Settings

DEPLOY = Path(__file__).parent
CHART = DEPLOY / "helm" / "shardgate"
PLAIN = DEPLOY / "kubernetes"
HELM = os.environ.get("HELM") or str(Path(sys.executable).with_name("helm"))

CHART_DECIDES = {
    "Settings": {"state", "buckets"},
    "AuthSettings": {"tokens_file", "signing_key_file", "signing_key", "metrics_token"},
    "ServeSettings": {"host", "port", "token", "workers", "drain_seconds"},
    "CacheSettings": {"dir"},
    "ClusterSettings": {"membership", "name", "url", "members", "dns", "service"},
    "EtlSettings": {"runner", "python"},
    "KubernetesSettings": {"kubeconfig", "namespace", "instance", "owner", "images", "pull_policy", "pull_secrets"},
}
"""Settings that the chart makes of other values. They are not in `config`."""
FOR_PEOPLE = ("title", "default", "description")
SOURCE = re.compile(r"^# Source: shardgate/templates/(\S+)$", re.MULTILINE)


def generated(helm_docs: str) -> dict[Path, str]:
    """Every generated file and its text."""
    schema = CHART / "values.schema.json"
    readme = subprocess.run(
        [helm_docs, "--chart-search-root", str(CHART), "--dry-run", "--log-level", "error"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {
        schema: json.dumps(json.loads(schema.read_text()) | {"$defs": definitions()}, indent=2) + "\n",
        CHART / "files" / "dashboard.json": runpy.run_path(str(DEPLOY / "dashboard.py"))["text"](),
        CHART / "README.md": readme.strip() + "\n",
        **{PLAIN / name: text for name, text in manifests().items()},
    }


def definitions() -> dict[str, Any]:
    """The settings' JSON schema, without what the chart decides and without prose."""
    whole = Settings.model_json_schema()
    found = {**whole.pop("$defs"), "Settings": whole}
    for name, fields in CHART_DECIDES.items():
        for field in fields:
            del found[name]["properties"][field]
    used = {name: _bare(found[name]) for name in ("Settings", "BucketSettings")}
    while missing := {name for name in found if f'"#/$defs/{name}"' in json.dumps(used)} - used.keys():
        used |= {name: _bare(found[name]) for name in missing}
    return dict(sorted(used.items()))


def manifests() -> dict[str, str]:
    """The plain manifests: one file per template of the chart, without what only helm does with it."""
    command = [HELM, "template", "shardgate", str(CHART), "--namespace", "shardgate", "--values", PLAIN / "values.yaml"]
    rendered = subprocess.run([*command, "--skip-tests"], capture_output=True, text=True, check=True).stdout
    files: dict[str, str] = {}
    for document in re.split(r"^---\n", rendered, flags=re.MULTILINE):
        if source := SOURCE.search(document):
            text = SOURCE.sub("", document).strip() + "\n"
            files[source[1]] = f"{files[source[1]]}---\n{text}" if source[1] in files else text
    for name, text in files.items():
        kept = [line for line in text.splitlines(keepends=True) if not re.match(r"\s+helm\.sh/chart: ", line)]
        files[name] = "".join(kept).replace("managed-by: Helm", "managed-by: kubectl")
    return files


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
    sys.path.insert(0, str(DEPLOY.parent / "tests" / "support"))
    from servers_install import find_or_install

    for path, text in generated(str(find_or_install("helm-docs"))).items():
        path.write_text(text)
