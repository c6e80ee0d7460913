"""Images for the tests, built of the working tree and named by what went in.

Whoever changes a source file gets a new tag, and with it a thin last layer, built in seconds. A tag that the registry
has is not built again, so sessions and machines that share a registry share images.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from cluster import Cluster

ROOT = Path(__file__).parent.parent.parent
FILES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "deploy/build-images")
FOLDERS = ("client", "gateway", "etl_runtime")
LOCK = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "shardgate/images.lock"
BUILD_SECONDS = 1200
"""The one with torch takes four minutes on two idle cores."""
MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


@cache
def source_digest() -> str:
    """12 hex digits for all files that become part of an image."""
    folders = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file())
    sources = sorted(path for path in folders if "__pycache__" not in path.parts)
    digest = hashlib.sha256()
    for path in [*(ROOT / name for name in FILES), *sources]:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)}\n{len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


def image(cluster: Cluster, name: str) -> str:
    """Reference of `gateway`, `runtime` or `runtime-torch`, which pods of the cluster can pull; built if need be."""
    tag = source_digest()
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (cluster.registry and _in_registry(cluster.registry, name, tag)):
            _build(cluster, name, tag)
    return f"{cluster.registry}/shardgate-{name}:{tag}" if cluster.registry else f"shardgate-{name}:{tag}"


def _in_registry(registry: str, name: str, tag: str) -> bool:
    url = f"http://{registry}/v2/shardgate-{name}/manifests/{tag}"
    try:
        with urlopen(Request(url, method="HEAD", headers={"Accept": MANIFESTS}), timeout=10):
            return True
    except HTTPError as error:
        if error.code == 404:
            return False
        raise


def _build(cluster: Cluster, name: str, tag: str) -> None:
    environment = {**cluster.environment, "IMAGE_TAG": tag}
    if cluster.script:
        subprocess.run([cluster.script, "base"], check=True, stdout=subprocess.DEVNULL, timeout=BUILD_SECONDS)
    subprocess.run([ROOT / "deploy/build-images", name], env=environment, check=True, timeout=BUILD_SECONDS)
    if not cluster.registry:
        subprocess.run(["kind", "load", "docker-image", "--name", "shardgate", f"shardgate-{name}:{tag}"], check=True)
