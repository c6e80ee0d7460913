"""From a configured bucket to a store: the one place where stores are put together.

A location says where the bytes are: `s3://bucket/folder?endpoint=...`, `gs://...`, `az://...`, `http(s)://host/base`,
`file://folder` or a plain path, `mem://`. What stands behind the `?` is checked against the tables below, so that a
misspelt option is an error and not a silent default. Credentials come from the environment (AWS_*, GOOGLE_*, AZURE_*)
or from options; a location is therefore never logged as it is, and messages don't show it: see `shown_location`.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store
from yarl import URL

from shardgate.providers import canonical
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.stores.http_origin import HttpOrigin
from shardgate_gateway.stores.keys import check_key
from shardgate_gateway.stores.local_folder import LocalFolder
from shardgate_gateway.stores.object_store import ObjectStoreBucket
from shardgate_gateway.stores.read_only import ReadOnly
from shardgate_gateway.stores.translate import summary

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

    from shardgate_gateway.settings import BucketSettings, UpstreamSettings
    from shardgate_gateway.stores.base import Store
    from shardgate_gateway.stores.upload_memory import UploadMemory

CLOUDS: dict[str, tuple[type[S3Store | GCSStore | AzureStore], dict[str, str]]] = {
    "aws": (
        S3Store,
        {
            "endpoint": "endpoint",
            "region": "region",
            "access_key_id": "access_key_id",
            "secret_access_key": "secret_access_key",
            "session_token": "session_token",
            "skip_signature": "skip_signature",
            "virtual_hosted_style": "virtual_hosted_style_request",
            "request_payer": "request_payer",
        },
    ),
    "gcp": (
        GCSStore,
        {"endpoint": "base_url", "service_account": "service_account", "skip_signature": "skip_signature"},
    ),
    "az": (
        AzureStore,
        {
            "endpoint": "endpoint",
            "account": "account_name",
            "access_key": "account_key",
            "sas_token": "sas_key",
            "skip_signature": "skip_signature",
        },
    ),
}
"""Per provider: obstore's class, and the options of a location with obstore's names for them."""
ALWAYS = {"aws": {"disable_bulk_delete": True}}
"""Settings that are not the operator's: deleting in bulk is one request more than DELETE, and not every S3 has it."""
CHANGES = {"az": "\\"}
"""Characters that a provider changes in keys: Azure makes slashes of backslashes."""
ALLOW_HTTP = "allow_http"
"""An option of all clouds, needed only where plain HTTP is not said by the endpoint itself."""
PUBLIC = {"endpoint", "region", "account", "service_account"}
"""Options whose values may stand in messages; `service_account` is the path of a file."""
UNLIMITED = timedelta(days=365)
"""obstore always limits a whole body, so it gets a limit that nothing reaches."""
CALL_PATIENCE = 2
"""A call that is no body, or one part of an upload, may take so many `progress_timeout`s."""


def open_store(
    name: str, bucket: BucketSettings, upstream: UpstreamSettings, memory: UploadMemory | None = None
) -> Store:
    """The store of the bucket `name` (`PROVIDER://NAME`); `memory` is what uploads to all of them may gather.

    Raises:
        BadRequest: The location is wrong; the message says what about it.
    """
    store = _open(name, bucket, upstream, memory)
    return ReadOnly(store, label=name) if bucket.read_only else store


def _open(name: str, bucket: BucketSettings, upstream: UpstreamSettings, uploads: UploadMemory | None) -> Store:
    where = _parsed(name, bucket.where)
    if "://" not in bucket.where or where.scheme == "file":
        return LocalFolder(_folder(name, bucket.where), label=name)
    try:
        kind = canonical(where.scheme)
    except ValueError as error:
        raise BadRequest(f"bucket {name}: {error} in its location", hint="see docs/buckets.md") from None
    if kind == "mem":
        memory = MemoryStore()
        return ObjectStoreBucket(memory, memory, label=name, etag_prefix=f"{secrets.token_hex(4)}-", memory=uploads)
    if kind == "http":
        return HttpOrigin(_origin(name, where), upstream, label=name, allow_redirect_hosts=bucket.allow_redirect_hosts)
    return _cloud(name, kind, where, upstream, uploads)


def shown_location(where: str) -> str:
    """A location without its credentials, for the log: no user, no password, and only options that are no secrets."""
    try:
        parts = urlsplit(where)
        host = parts.netloc.rpartition("@")[2]
        options = [(name, shown_location(value)) for name, value in parse_qsl(parts.query) if name in PUBLIC]
    except ValueError:
        return "a location that is no URL"
    if "://" not in where or parts.scheme == "file":
        return where
    query = "&".join(f"{name}={value}" for name, value in options)
    return f"{parts.scheme}://{host}{parts.path}" + (f"?{query}" if query else "")


def _parsed(name: str, where: str) -> SplitResult:
    try:
        parts = urlsplit(where)
        _ = parts.port  # it is looked at when it is asked for
    except ValueError:
        raise BadRequest(f"bucket {name}: its location is no URL", hint="see docs/buckets.md") from None
    return parts


def _folder(name: str, where: str) -> Path:
    folder = where.removeprefix("file://")
    if not folder or "\0" in folder:
        raise BadRequest(f"bucket {name}: its location names no folder", hint="write a path, or file:///path")
    return Path(folder).expanduser().absolute()


def _origin(name: str, where: SplitResult) -> URL:
    if not where.hostname or where.query or where.fragment:
        raise BadRequest(
            f"bucket {name}: the location of a web server is http(s)://host[:port]/path, without `?` and `#`",
            hint="put what follows the server's address into the keys",
        )
    return URL(where.geturl())


def _cloud(name: str, kind: str, where: SplitResult, upstream: UpstreamSettings, uploads: UploadMemory | None) -> Store:
    make, known = CLOUDS[kind]
    options = dict(parse_qsl(where.query, keep_blank_values=True))
    if unknown := sorted(set(options) - set(known) - {ALLOW_HTTP}):
        raise BadRequest(
            f"bucket {name}: unknown option {', '.join(unknown)} in its location",
            hint=f"options of {where.scheme}:// are {', '.join([*known, ALLOW_HTTP])}",
        )
    prefix = where.path.strip("/")
    if not where.netloc:
        raise BadRequest(f"bucket {name}: its location names no bucket", hint=f"write {where.scheme}://BUCKET")
    if prefix:
        check_key(prefix)
    allow_http = options.pop(ALLOW_HTTP, "").lower() == "true" or options.get("endpoint", "").startswith("http://")
    config: dict[str, Any] = {known[option]: value for option, value in options.items()} | ALWAYS.get(kind, {})

    def client(timeouts: ClientConfig, retries: RetryConfig) -> S3Store | GCSStore | AzureStore:
        connect = timedelta(seconds=upstream.connect_timeout)
        return make(
            where.netloc,
            prefix=prefix or None,
            config=config,  # type: ignore[arg-type]
            client_options={"allow_http": allow_http, "connect_timeout": connect, **timeouts},
            retry_config=retries,
        )

    progress = timedelta(seconds=upstream.progress_timeout)
    try:
        reads = client({"timeout": UNLIMITED, "read_timeout": progress}, {"max_retries": 0, "retry_timeout": progress})
        calls = client(
            {"timeout": progress * CALL_PATIENCE},
            {
                "max_retries": upstream.attempts - 1,
                "retry_timeout": progress * CALL_PATIENCE,
                "backoff": {"init_backoff": timedelta(seconds=upstream.backoff_seconds)},
            },
        )
    except (BaseError, ValueError, TypeError) as error:
        raise BadRequest(
            f"bucket {name}: {_redacted(summary(error), options)}", hint="an option of its location is wrong"
        ) from None
    return ObjectStoreBucket(reads, calls, label=name, without=CHANGES.get(kind, ""), memory=uploads)


def _redacted(text: str, options: dict[str, str]) -> str:
    for option, value in options.items():
        if option not in PUBLIC and value:
            text = text.replace(value, "...")
    return text
