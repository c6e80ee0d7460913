"""Every setting of the gateway: its unit, its default, and why one would change it.

Values come, the later the stronger, from the defaults in this package, a TOML file (`--config`), the environment
(`SHARDGATE_CACHE__DIR`: prefix, group, two underscores, field) and command-line flags. All groups are frozen: a running
gateway never changes its mind. `docs/settings.md` is generated from them and a test keeps it true.

    tree.py       all groups together
    load.py       where values come from
    base.py       what groups share
    serving.py storage.py etl.py kubernetes.py cluster.py      the groups
"""

from shardgate_gateway.settings.base import GIB, MIB, MIN_KEY_BYTES, Folder, Group, Size, is_loopback
from shardgate_gateway.settings.cluster import ClusterSettings
from shardgate_gateway.settings.etl import EtlSettings
from shardgate_gateway.settings.kubernetes import KubernetesSettings, RuntimeImage
from shardgate_gateway.settings.load import ENV_PREFIX, load, parse_bucket
from shardgate_gateway.settings.serving import AuthSettings, LogSettings, ServeSettings
from shardgate_gateway.settings.storage import BucketSettings, CacheSettings, StateSettings, UpstreamSettings
from shardgate_gateway.settings.tree import Settings

__all__ = [
    "ENV_PREFIX",
    "GIB",
    "MIB",
    "MIN_KEY_BYTES",
    "AuthSettings",
    "BucketSettings",
    "CacheSettings",
    "ClusterSettings",
    "EtlSettings",
    "Folder",
    "Group",
    "KubernetesSettings",
    "LogSettings",
    "RuntimeImage",
    "ServeSettings",
    "Settings",
    "Size",
    "StateSettings",
    "UpstreamSettings",
    "is_loopback",
    "load",
    "parse_bucket",
]
