"""How the gateway listens, whom it trusts, and what it writes to its log."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    field_validator,
)

from shardgate import wire
from shardgate_gateway.settings.base import GIB, MIB, MIN_KEY_BYTES, Group, Size


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
