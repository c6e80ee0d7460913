"""What the log says when a gateway starts: which program, with which settings, over which buckets.

No value of a setting that may be a secret is here: locations are shown without credentials (`shown_location`), tokens
and keys only as being there, the environment by the names of its variables.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from shardgate_gateway.settings import ENV_PREFIX
from shardgate_gateway.stores.open import shown_location
from shardgate_gateway.version import program_version

if TYPE_CHECKING:
    from pathlib import Path

    from shardgate_gateway.settings import AuthSettings, Settings

log = logging.getLogger(__name__)


def log_start(settings: Settings, config: Path | None, address: str) -> None:
    """Say it.

    Args:
        settings: All of them.
        config: The settings file, if there is one.
        address: `http://host:port` that is listened on.
    """
    workers = settings.serve.workers
    log.info(
        "shardgate %s starts: %s, %d worker%s, %s",
        *(program_version(), address, workers, "s"[: workers != 1], _authentication(settings)),
        extra={"fields": {"version": program_version(), "address": address, "workers": workers}},
    )
    log.info("settings: %s, %s", _file(config), _environment())
    capacity = settings.cache.capacity_bytes
    share = "80 % of the free space" if not capacity else f"{capacity} bytes"
    log.info("cache: %s, capacity %s", settings.cache.dir, share)
    database = "a database that gateways share" if settings.state.database else "SQLite"
    log.info("state: %s, %s; transforms run in: %s", settings.state.dir, database, settings.etl.runner)
    if not settings.buckets:
        log.warning("there is no bucket: give --bucket PROVIDER://NAME=WHERE, or set it in the settings file")
    for name, bucket in settings.buckets.items():
        provider, where = name.partition("://")[0], shown_location(bucket.where)
        log.info(
            "bucket %s: %s%s",
            *(name, where, ", read only" if bucket.read_only else ""),
            extra={"fields": {"bucket": name, "provider": provider, "where": where}},
        )


def _file(config: Path | None) -> str:
    return f"file {config.absolute()}" if config is not None else "no file"


def _environment() -> str:
    names = sorted(name for name in os.environ if name.startswith(ENV_PREFIX))
    return f"environment {' '.join(names)}" if names else "nothing from the environment"


def _authentication(settings: Settings) -> str:
    ways = _ways(settings.serve.token, settings.auth)
    return f"authentication on ({', '.join(ways)})" if ways else "authentication off: everybody may do everything"


def _ways(serve_token: str, auth: AuthSettings) -> list[str]:
    if not (serve_token or auth.tokens_file):
        return []
    ways = ["serve.token"] if serve_token else []
    if auth.tokens_file:
        ways.append(f"auth.tokens_file {auth.tokens_file}")
    if auth.metrics_token:
        ways.append("auth.metrics_token")
    if auth.anonymous:
        ways.append(f"without a token: {' '.join(auth.anonymous)}")
    return ways
