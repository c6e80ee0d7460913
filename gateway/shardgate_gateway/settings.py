"""Every setting of the gateway: its unit, its default, and why one would change it.

Values come, the later the stronger, from the defaults below, a TOML file (`--config`), the environment
(`SHARDGATE_CACHE__DIR`: prefix, group, two underscores, field) and command-line flags. All groups are frozen: a running
gateway never changes its mind. `docs/settings.md` is generated from this file and a test keeps it true.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from shardgate import extras, wire
from shardgate.providers import split_bucket
from shardgate_gateway.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic_core import ErrorDetails

MIB = 1 << 20
GIB = 1 << 30
ENV_PREFIX = "SHARDGATE_"
MIN_KEY_BYTES = 32
"""What HS256 needs."""

Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


SIZES = {
    unit + byte: factor
    for prefix, decimal, binary in (("", 1, 1), ("k", 1000, 1 << 10), ("m", 10**6, MIB), ("g", 10**9, GIB))
    for unit, factor in ((prefix, decimal), (prefix + "i", binary))
    for byte in ("", "b")
} | {f"t{i}{b}": factor for i, factor in (("", 10**12), ("i", 1 << 40)) for b in ("", "b")}
"""Bytes by unit: `50GB` are 50 * 10**9, `50GiB` (or, as in Kubernetes, `50Gi`) are 50 * 2**30."""
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", re.ASCII)


def _bytes_of(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value)
    factor = SIZES.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError(f"{value!r} is no size; write bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB")
    return int(Decimal(found[1]) * factor)


Size = Annotated[int, BeforeValidator(_bytes_of, json_schema_input_type=int | str)]
"""Bytes, which may be written with a unit."""


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ServeSettings(Group):
    """The HTTP service."""

    host: str = Field(
        "127.0.0.1", description="Address to listen on. All but loopback needs `token` or `auth.tokens_file`."
    )
    port: int = Field(wire.DEFAULT_PORT, ge=0, le=65535, description="TCP port; 0 picks a free one and prints it.")
    workers: int = Field(
        1, ge=1, le=256, description="Gateway processes that share the port. One per core that serves."
    )
    token: str = Field(
        "",
        description="Bearer token that may do everything. Where this or `auth.tokens_file` is set, every request but "
        "health checks needs a token.",
    )
    public_url: str = Field(
        "", description="How ETL workers and clients reach this gateway, if not by `http://host:port`."
    )
    linger_seconds: float = Field(
        0,
        ge=0,
        description="After SIGTERM: seconds in which new connections are still taken while `/readyz` says 503 already, "
        "so that load balancers and other gateways turn away first.",
    )
    drain_seconds: float = Field(
        30, ge=0, description="After SIGTERM: seconds for running responses before they are aborted."
    )
    max_connections: int = Field(
        0,
        ge=0,
        description="Connections per process that are served; more get 503 with Retry-After. "
        "0 takes a quarter of the file descriptors that the process may open.",
    )
    max_put_bytes: Size = Field(64 * GIB, ge=0, description="Bytes of the largest object that a PUT may store.")
    upload_memory_bytes: Size = Field(
        256 * MIB,
        ge=16 * MIB,
        description="Bytes that running uploads to object stores may gather per process, all together; a large one "
        "takes 48 MiB. More uploads wait, and after `upload_stall_seconds` get 503 with Retry-After.",
    )
    upload_stall_seconds: float = Field(
        120,
        gt=0,
        description="Seconds for which an upload may wait for its sender, 64 KiB at a time, before it gets 408.",
    )
    keepalive_seconds: float = Field(75, ge=0, description="Seconds an idle client connection is kept.")


class AuthSettings(Group):
    """Who may do what; without any of it, and without `serve.token`, everybody may do everything."""

    tokens_file: str = Field(
        "",
        description="TOML or JSON file with the tokens of people and programs, each with `name`, `token` and `scopes`; "
        "see docs/http.md. It is read again when it changes.",
    )
    metrics_token: str = Field(
        "", description="Bearer token that reads `/metrics` and nothing else, for Prometheus. None by default."
    )
    anonymous: tuple[str, ...] = Field(
        (),
        description="Scopes of requests without any token, like `read:gcp://public/*`: for readers that can't send "
        "one, on a network that you trust. None by default.",
    )
    signing_key_file: str = Field(
        "",
        description="File with the key that signs the tokens of the gateway's own parts, the same for all gateways. "
        "One key a line: the first signs, all are accepted. It is read again when it changes.",
    )
    signing_key: str = Field(
        "", description="The key itself, where no file holds it; empty takes a random one at every start."
    )

    @field_validator("signing_key")
    @classmethod
    def _long_enough(cls, key: str) -> str:
        if key and len(key.encode()) < MIN_KEY_BYTES:
            raise ValueError(f"it has fewer than {MIN_KEY_BYTES} bytes; `openssl rand -hex 32` makes a good one")
        return key


class CacheSettings(Group):
    """The disk cache in front of the buckets."""

    dir: Folder = Field(
        Path("~/.cache/shardgate/objects"), description="Folder of this node's cache; one disk, one gateway."
    )
    capacity_bytes: Size = Field(
        0, ge=0, description="Bytes the cache may use; 0 takes 80 % of the disk's free space at start."
    )
    high_watermark: float = Field(0.95, gt=0, le=1, description="Share of the capacity at which eviction begins.")
    low_watermark: float = Field(0.85, gt=0, le=1, description="Share of the capacity at which eviction stops.")
    memory_bytes: Size = Field(
        64 * MIB,
        ge=0,
        description="Bytes of small objects and tar indexes that each worker process keeps in memory; each of them "
        "counts a KiB more.",
    )
    memory_object_bytes: Size = Field(256 << 10, ge=0, description="Bytes of the largest object kept in memory.")
    verify: Literal["first", "always", "never"] = Field(
        "first",
        description="When cached blocks are checked against their checksums: at the first read by each process and "
        "after any change of the file, at every read, or only by the scrubber.",
    )
    scrub_bytes_per_second: Size = Field(
        8 * MIB, ge=0, description="Bytes per second that the background scrubber re-verifies; 0 turns it off."
    )
    fsync: bool = Field(
        default=False,
        description="Flush each entry to the disk before it is published. Without it a power cut costs entries, "
        "never correctness: an entry that does not match its checksums is fetched again.",
    )
    part_bytes: Size = Field(8 * MIB, ge=64 << 10, description="Bytes per parallel range request of a large object.")
    parallel_parts: int = Field(4, ge=1, le=64, description="Range requests in flight for one large object.")
    parallel_from_bytes: Size = Field(
        64 * MIB, ge=0, description="Objects of at least this many bytes are fetched by parallel ranges."
    )

    @model_validator(mode="after")
    def _watermarks_in_order(self) -> CacheSettings:
        if self.low_watermark > self.high_watermark:
            raise ValueError("cache.low_watermark must not be above cache.high_watermark")
        return self


class UpstreamSettings(Group):
    """How remote stores are spoken to."""

    connect_timeout: float = Field(5, gt=0, description="Seconds to establish a connection.")
    progress_timeout: float = Field(
        30,
        gt=0,
        description="Seconds without a single byte after which a transfer counts as stalled. "
        "No limit covers a whole body.",
    )
    attempts: int = Field(5, ge=1, description="Tries per fetch, each resuming where the last one stopped.")
    backoff_seconds: float = Field(
        0.2, ge=0, description="Seconds before the second try; doubles, with jitter, up to 10."
    )


class EtlSettings(Group):
    """Transforms and the processes that run them."""

    runner: Literal["local", "kubernetes"] = Field(
        "local", description="Where workers run: `local` processes on this machine, or pods of a `kubernetes` cluster."
    )
    workers: int = Field(
        0, ge=0, description="Worker processes per transform; 0 takes the CPU quota of this machine or container."
    )
    python: str = Field("", description="Python interpreter of the workers; empty takes the gateway's own.")
    start_timeout: float = Field(
        120, gt=0, description="Seconds a runtime may take to import its package and become ready."
    )
    idle_seconds: float = Field(
        600, gt=0, description="Seconds without a request after which a transform's workers stop."
    )
    superseded_idle_seconds: float = Field(
        30,
        gt=0,
        description="The same for a version whose name means a newer one: it can still be read by its id, and is "
        "started again for that. A notebook makes a version each time a cell runs.",
    )
    ring_bytes: Size = Field(8 * MIB, ge=MIB, description="Bytes of shared memory between one worker and the gateway.")
    memory_bytes: Size = Field(
        0,
        ge=0,
        description="Bytes a worker may allocate beyond what the loaded package needs; "
        "0 takes 80 % of the memory, shared out.",
    )
    attempts: int = Field(4, ge=1, description="Workers that may be lost without progress before a shard is given up.")
    progress_timeout: float = Field(
        300,
        gt=0,
        description="Seconds without a finished sample after which a worker counts as hung. "
        "A transform's `sample_timeout` is the finer tool.",
    )
    release_seconds: float = Field(
        2,
        gt=0,
        description="A reader that takes no byte for so many seconds gives its worker back; "
        "the shard continues when it reads on.",
    )
    max_waiting: int = Field(
        256,
        ge=1,
        description="Requests per transform and process that may wait for a worker; more get 503 with Retry-After.",
    )
    queue_seconds: float = Field(
        120,
        gt=0,
        description="Seconds that a request may wait for its transform to start and for a worker; then 503 with "
        "Retry-After. Our client asks again, and keeps its place. Readers should allow a silence of more than this.",
    )
    args_bytes: Size = Field(4096, ge=0, description="Bytes of the `args` that a request may hand to its transform.")
    package_bytes: Size = Field(512 * MIB, ge=1, description="Bytes of the largest transform package accepted.")
    environment_bytes: Size = Field(
        8192 * MIB, ge=1, description="Bytes of the largest archive of installed requirements accepted."
    )
    small_result_bytes: Size = Field(
        16 * MIB, ge=0, description='Under `cache="auto"`, results up to this many bytes are kept at the first request.'
    )


class RuntimeImage(Group):
    """An image that ETL pods may run."""

    image: str = Field(min_length=1, description="Its name, as nodes pull it.")
    python: str = Field(pattern=r"^\d+\.\d+$", description="`major.minor` of its Python.")
    provides: tuple[str, ...] = Field(
        (), description="Distributions that only this image has; transforms that require one of them run in it."
    )


class KubernetesSettings(Group):
    """ETL pods, where `etl.runner` is `kubernetes`."""

    kubeconfig: str = Field(
        "", description="File that says how to reach the API server; empty takes the pod's service account, if in one."
    )
    namespace: str = Field("", description="Where ETL pods run; empty takes the gateway's own.")
    instance: str = Field(
        "shardgate",
        pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$",
        max_length=53,
        description="Name of this installation: labels its objects, so that several can share a namespace.",
    )
    owner: str = Field(
        "", description="StatefulSet that owns the ETL objects: they go when it is deleted. Empty leaves them unowned."
    )
    gateway_url: str = Field(
        "", description="How ETL pods reach the gateway, a Service's address; empty takes `serve.public_url`."
    )
    images: tuple[RuntimeImage, ...] = Field(
        (), description="Runtime images, per Python version one or more, the plain one first."
    )
    allowed_images: tuple[str, ...] = Field(
        (), description="Patterns (`registry/team/*`) of other images that users may name. None by default."
    )
    allowed_secrets: tuple[str, ...] = Field(
        (), description="Patterns of Secrets that users may have in their pods' environment. None by default."
    )
    allowed_claims: tuple[str, ...] = Field(
        (),
        description="Patterns of PersistentVolumeClaims that pod templates may mount. None by default: the gateways "
        "and a database may have theirs in the same namespace.",
    )
    allowed_config_maps: tuple[str, ...] = Field(
        (), description="Patterns of ConfigMaps that pod templates may have. None by default."
    )
    allowed_labels: tuple[str, ...] = Field(
        (),
        description="Patterns of labels that pod templates may set. None by default: Services and policies of others "
        "select by labels.",
    )
    allowed_annotations: tuple[str, ...] = Field(
        (),
        description="Patterns of annotations that pod templates may set. None by default: injectors and networks obey "
        "them.",
    )
    cpu: str = Field("1", description="CPU limit of a pod whose owner says nothing; it has as many workers.")
    memory: str = Field("2Gi", description="Memory limit of a pod whose owner says nothing.")
    max_cpu: str = Field("64", description="The most CPU that a user may ask for, per pod.")
    max_memory: str = Field("256Gi", description="The most memory that a user may ask for, per pod.")
    max_gpus: int = Field(8, ge=0, description="The most GPUs that a user may ask for, per pod.")
    max_replicas: int = Field(16, ge=1, description="The most pods per transform, and how many one may scale up to.")
    cpu_request_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of its CPU limit that a pod reserves; the rest it takes where a node is idle.",
    )
    ephemeral_storage: str = Field("8Gi", description="Disk that a pod may use for its environment, logs and /tmp.")
    patience_seconds: float = Field(
        60,
        gt=0,
        description="Seconds that what may heal (no node fits, the registry does not answer) may keep pods from "
        "starting before a start fails. An autoscaler needs minutes.",
    )
    node: str = Field("", description="Node that the gateway runs on: pods there are preferred. Empty prefers none.")
    calm_seconds: float = Field(
        60, ge=0, description="Seconds that fewer pods must have been enough before a transform gets fewer."
    )
    grace_seconds: int = Field(
        60, ge=1, description="Seconds that a pod which is asked to end has for the shards it works on."
    )
    token_seconds: int = Field(
        3600, ge=600, description="Seconds that a pod's token for its package is good for; renewed at half time."
    )
    service_account: str = Field("default", description="Service account of ETL pods. They get no token of it.")
    priority_class: str = Field("", description="PriorityClass of ETL pods; empty takes the cluster's default.")
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        "IfNotPresent", description="When nodes pull an image."
    )
    pull_secrets: tuple[str, ...] = Field((), description="Secrets with credentials for the image registry.")
    pip_options: tuple[str, ...] = Field(
        (),
        description="Options for pip where requirements are installed that an image lacks, like "
        "`--index-url=https://pypi.example/simple`. Empty takes PyPI.",
    )
    requirements: Literal["wheels", "sources", "addresses"] = Field(
        "wheels",
        description="What may be installed of a transform's requirements. `wheels`: those of the index, so that "
        "no code of theirs runs meanwhile. `sources`: also what has to be built. `addresses`: also requirements that "
        "name where they come from (`name @ https://...`).",
    )
    environment_seconds: float = Field(
        900, ge=60, description="Seconds that installing the requirements of a transform may take."
    )


class ClusterSettings(Group):
    """Several gateways that share the objects among them."""

    membership: Literal["none", "static", "dns", "kubernetes"] = Field(
        "none",
        description="How the gateways find each other: not at all (this is the only one), by `members`, by `dns`, or "
        "by the EndpointSlices of `service`.",
    )
    name: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]*$",
        description="Name of this gateway among the members. Objects are placed by names, so it must outlive restarts; "
        "empty takes the host name, which is the pod's.",
    )
    url: str = Field(
        "", description="How the other gateways reach this one; empty takes `http://serve.host:serve.port`."
    )
    members: dict[str, str] = Field(
        default_factory=dict, description="With `static`: URLs of all gateways by name, this one included."
    )
    dns: str = Field(
        "", description="With `dns`: `http://NAME:PORT`, where NAME resolves to the addresses of all ready gateways."
    )
    service: str = Field("", description="With `kubernetes`: name of the headless Service in front of the gateways.")
    connect_timeout: float = Field(
        1, gt=0, description="Seconds after which a gateway that does not answer is skipped for the next in rank."
    )
    refresh_seconds: float = Field(5, gt=0, description="Seconds between two looks at `dns`.")
    hot_requests: int = Field(
        64,
        ge=0,
        description="Requests within 10 seconds, passed on by other gateways, from which on an object is kept by one "
        "gateway more, and by another one for each time as many; 0 keeps every object once.",
    )
    hot_copies: int = Field(3, ge=1, le=8, description="Most gateways that keep a hot object.")

    @model_validator(mode="after")
    def _complete(self) -> ClusterSettings:
        needed = {"static": "members", "dns": "dns", "kubernetes": "service"}.get(self.membership)
        if needed and not getattr(self, needed):
            raise ValueError(f"cluster.membership is {self.membership!r}, so cluster.{needed} must be set")
        if self.membership == "static" and self.name not in self.members:
            raise ValueError(f"cluster.members lacks this gateway itself, cluster.name {self.name!r}")
        return self


class StateSettings(Group):
    """What survives a restart."""

    dir: Folder = Field(
        Path("~/.local/share/shardgate"), description="Folder of the registry, the packages and the workers' logs."
    )
    database: str = Field(
        "",
        description="SQLAlchemy URL of the registry, like `postgresql://user:password@host/name`, which several "
        "gateways can share; empty is SQLite in `dir`.",
    )
    packages: str = Field(
        "",
        description="Bucket location (as in `buckets`) with the packages; empty is a folder in `dir` with SQLite, "
        "and rows of the database with PostgreSQL.",
    )


class LogSettings(Group):
    """The log, on stderr: start and stop, failed and refused requests, with their request id and cause."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important records that are written. Below `info` only the gateway's own."
    )
    format: Literal["text", "json"] = Field(
        "text", description="`text`: a line for people. `json`: an object a line, for machines."
    )
    access: bool = Field(
        default=False,
        description="Write a record for every request, without a limit: method, path, status, bytes, seconds, token's "
        "name and address. Queries are left out, because they may hold what is secret.",
    )


class BucketSettings(Group):
    """One bucket: `--bucket PROVIDER://NAME=WHERE`."""

    where: str = Field(
        description="Location: a folder, `s3://bucket?endpoint=...`, `gs://...`, `az://...`, `http://...`, `mem://`."
    )
    freshness: Literal["immutable", "revalidate", "always"] = Field(
        "revalidate",
        description="`immutable`: a cached object is never asked for again; `revalidate`: asked again after "
        "`revalidate_seconds`; `always`: asked at every read.",
    )
    revalidate_seconds: float = Field(
        60, ge=0, description="Seconds a cached object is served without asking the store."
    )
    read_only: bool = Field(default=False, description="Refuse PUT and DELETE.")
    allow_redirect_hosts: tuple[str, ...] = Field((), description="Other hosts an HTTP origin may redirect to.")


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


class _Environment(Settings, BaseSettings):
    """Only says how the environment spells the settings above."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter="__")


def load(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Merge defaults, file, environment and flags, the later the stronger.

    Args:
        config: TOML file with the groups as tables.
        flags: Nested by group, as in the file: `{"serve": {"port": 0}}`.

    Raises:
        BadRequest: A value can't be used; the message names each setting and where it was set.
    """
    layers = [
        (f"file {config}", _read_file(config) if config else {}),
        ("environment", _read_environment()),
        ("command line", dict(flags or {})),
    ]
    merged: dict[str, Any] = {}
    for origin, layer in layers:
        _merge(merged, _with_canonical_buckets(origin, layer))
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        lines = [_explain(detail, layers) for detail in error.errors()]
        raise BadRequest("\n".join(lines), hint="docs/settings.md describes every setting") from error


def parse_bucket(text: str) -> tuple[str, BucketSettings]:
    """Take a `--bucket PROVIDER://NAME=WHERE` apart: `("gcp://imagenet", BucketSettings(where="./data"))`.

    Raises:
        BadRequest: Not of that form.
    """
    hint = "write --bucket PROVIDER://NAME=WHERE, like gcp://imagenet=./data"
    bucket, separator, where = text.partition("=")
    if not separator or not where:
        raise BadRequest(f"--bucket {text!r} has no location", hint=hint)
    try:
        return "{}://{}".format(*split_bucket(bucket)), BucketSettings(where=where)
    except ValueError as error:
        raise BadRequest(f"--bucket {text!r}: {error}", hint=hint) from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadRequest(f"--config {path}: {error}", hint="a TOML file with tables like [serve]") from error


def _read_environment() -> dict[str, Any]:
    groups = set(Settings.model_fields)
    for name in os.environ:
        group, nested, field = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if name.startswith(ENV_PREFIX) and nested and group not in groups:
            close = get_close_matches(group, groups, n=1)
            meant = f"; did you mean {ENV_PREFIX}{close[0].upper()}__{field.upper()}?" if close else ""
            raise BadRequest(
                f"environment: {name} is no setting{meant}", hint=f"groups are {', '.join(sorted(groups))}"
            )
    try:
        return EnvSettingsSource(_Environment)()
    except SettingsError as error:
        raise BadRequest(f"environment: {error}", hint="SHARDGATE_BUCKETS and the like hold JSON") from error


def _with_canonical_buckets(origin: str, layer: dict[str, Any]) -> dict[str, Any]:
    """Bucket names in their one spelling, so that `gs://b` in a file and `gcp://b` in a flag are the same bucket."""
    if not isinstance(layer.get("buckets"), dict):
        return layer
    try:
        return layer | {"buckets": {"{}://{}".format(*split_bucket(name)): b for name, b in layer["buckets"].items()}}
    except ValueError as error:
        raise BadRequest(f"{origin}: buckets: {error}", hint="bucket names look like gcp://imagenet") from error


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for name, value in layer.items():
        if isinstance(value, dict):
            into[name] = dict(into[name]) if isinstance(into.get(name), dict) else {}
            _merge(into[name], value)
        else:
            into[name] = value


def _explain(detail: ErrorDetails, layers: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """One line that names the setting, what is wrong, and the strongest layer that sets it."""
    path = detail["loc"]
    origin = next((name for name, layer in reversed(layers) if _sets(layer, path)), "")
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = "there is no such setting" + _meant(path)
    return ": ".join(filter(None, (origin, ".".join(map(str, path)), message)))


def _meant(path: Sequence[int | str]) -> str:
    """The setting whose name is most like this one, as a question; empty where none is."""
    *groups, name = map(str, path)
    group = _group_at(groups)
    close = get_close_matches(name, group.model_fields, n=1) if group is not None else []
    return f"; did you mean {'.'.join([*groups, *close])}?" if close else ""


def _group_at(groups: Sequence[str]) -> type[BaseModel] | None:
    if not groups:
        return Settings
    if groups[0] == "buckets":
        return BucketSettings
    field = Settings.model_fields.get(groups[0])
    kind = field.annotation if field is not None and len(groups) == 1 else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _sets(layer: Any, path: Sequence[int | str]) -> bool:
    for name in path:
        if not isinstance(layer, dict) or name not in layer:
            return False
        layer = layer[name]
    return True
