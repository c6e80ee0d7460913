"""Environments over HTTP: the first whole one stays, and a token opens the one that it names."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING

import pytest
from gateway_process import GatewayProcess, running_gateway
from readers import Answer, curl

from shardgate_gateway.auth.tokens import Tokens
from shardgate_gateway.settings import AuthSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "the key of all gateways, 32 bytes or more"
BODY = os.urandom(3_000_000)
LIMIT = 4_000_000


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("environments")
    settings = {"serve.token": "the-operators-own", "auth.signing_key": KEY, "etl.environment_bytes": LIMIT}
    with running_gateway(folder, {}, workers=2, settings=settings) as running:
        yield running


def digest_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def ask(gateway: GatewayProcess, digest: str, *options: str, scope: str = "") -> Answer:
    signed = Tokens(AuthSettings(signing_key=KEY), "x").mint("pod", [scope or f"environment:{digest}"], seconds=60)
    return curl(f"{gateway.endpoint}/v1/environments/{digest}", "-H", f"Authorization: Bearer {signed}", *options)


def put(gateway: GatewayProcess, digest: str, folder: Path, body: bytes, *, announced: bytes | None = None) -> Answer:
    (folder / "body").write_bytes(body)
    hashed = base64.b64encode(hashlib.sha256(body if announced is None else announced).digest()).decode()
    return ask(gateway, digest, "-T", str(folder / "body"), "-H", f"Content-Digest: sha-256=:{hashed}:")


def test_the_first_one_stays_and_comes_back_whole(gateway: GatewayProcess, tmp_path: Path) -> None:
    digest = digest_of("first")
    assert ask(gateway, digest).status == 404
    assert put(gateway, digest, tmp_path, BODY).status == 201
    assert put(gateway, digest, tmp_path, BODY[::-1]).status == 200
    assert ask(gateway, digest).body == BODY
    head = ask(gateway, digest, "--head")
    assert (head.status, head.headers["content-length"]) == (200, str(len(BODY)))


def test_another_body_than_the_announced_one_is_not_kept(gateway: GatewayProcess, tmp_path: Path) -> None:
    digest = digest_of("damaged")
    assert put(gateway, digest, tmp_path, BODY, announced=b"other").status == 400
    assert ask(gateway, digest).status == 404


def test_one_that_is_too_large_is_refused(gateway: GatewayProcess, tmp_path: Path) -> None:
    assert put(gateway, digest_of("large"), tmp_path, bytes(LIMIT + 1)).status == 413


def test_a_token_opens_its_own_environment_and_no_other(gateway: GatewayProcess, tmp_path: Path) -> None:
    digest = digest_of("mine")
    assert put(gateway, digest, tmp_path, b"mine").status == 201
    for scope in (f"environment:{digest_of('another')}", "package:train-0123456789abcdef", "transforms:register"):
        assert ask(gateway, digest, scope=scope).status == 403
        assert ask(gateway, digest, "-X", "PUT", "-d", "x", scope=scope).status == 403
    assert curl(f"{gateway.endpoint}/v1/environments/{digest}").status == 401
