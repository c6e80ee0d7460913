"""All groups together, and what has to fit between them."""

from __future__ import annotations

from typing import Any

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from shardgate import extras
from shardgate.providers import split_bucket
from shardgate_gateway.settings.base import Group, is_loopback
from shardgate_gateway.settings.cluster import ClusterSettings
from shardgate_gateway.settings.etl import EtlSettings
from shardgate_gateway.settings.kubernetes import KubernetesSettings
from shardgate_gateway.settings.serving import AuthSettings, LogSettings, ServeSettings
from shardgate_gateway.settings.storage import BucketSettings, CacheSettings, StateSettings, UpstreamSettings


class Settings(Group):
    """All groups, and the buckets by `PROVIDER://NAME`."""

    serve: ServeSettings = Field(default_factory=ServeSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    upstream: UpstreamSettings = Field(default_factory=UpstreamSettings)
    etl: EtlSettings = Field(default_factory=EtlSettings)
    kubernetes: KubernetesSettings = Field(default_factory=KubernetesSettings)
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)
    state: StateSettings = Field(default_factory=StateSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    buckets: dict[str, BucketSettings] = Field(
        default_factory=dict, description="Buckets by `PROVIDER://NAME`; see docs/buckets.md."
    )

    @model_validator(mode="after")
    def _public_needs_tokens(self) -> Settings:
        if not (self.serve.token or self.auth.tokens_file) and not is_loopback(self.serve.host):
            raise ValueError(
                f"serve.host {self.serve.host} can be reached from other machines, so serve.token or auth.tokens_file "
                "must be set; or listen on 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _members_share_a_key(self) -> Settings:
        auth = self.auth
        secured = self.serve.token or auth.tokens_file
        if self.cluster.membership != "none" and secured and not (auth.signing_key or auth.signing_key_file):
            raise ValueError(
                "gateways of a cluster know each other by the key they share, so auth.signing_key_file must be set"
            )
        return self

    @model_validator(mode="after")
    def _kubernetes_is_installed(self) -> Settings:
        if "kubernetes" in {self.etl.runner, self.cluster.membership} and extras.missing("kubernetes"):
            raise ValueError("a gateway in a cluster needs the package kubernetes: pip install 'shardgate[kubernetes]'")
        return self

    @model_validator(mode="after")
    def _memory_is_not_shared(self) -> Settings:
        for name, bucket in self.buckets.items():
            if bucket.where.startswith("mem") and "://" in bucket.where and self.serve.workers > 1:
                raise ValueError(f"bucket {name} is in the memory of one process, so serve.workers must be 1")
        return self

    @field_validator("buckets", mode="before")
    @classmethod
    def _canonical_names(cls, buckets: Any) -> Any:
        if not isinstance(buckets, dict):
            return buckets
        return {"{}://{}".format(*split_bucket(name)): bucket for name, bucket in buckets.items()}
