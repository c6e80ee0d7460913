"""What is the same for all requests: problems, tokens, limits, broken HTTP, health, metrics, listings."""

from __future__ import annotations

import json
import re
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from gateway_process import eventually, running_gateway
from readers import curl, get_raw, send_raw

if TYPE_CHECKING:
    from pathlib import Path

    from gateway_process import GatewayProcess


def test_every_answer_has_a_request_id_the_clients_own_if_it_is_harmless(gateway: GatewayProcess) -> None:
    for path in ("/v1/objects/data/small", "/v1/objects/data/none", "/v1/buckets", "/healthz", "/nowhere", "/metrics"):
        assert curl(gateway.endpoint + path).headers["x-request-id"]
        given = curl(gateway.endpoint + path, "-H", "X-Request-Id: mine-1.2:3")
        assert given.headers["x-request-id"] == "mine-1.2:3"
        forged = curl(gateway.endpoint + path, "-H", 'X-Request-Id: "><script>')
        assert "script" not in forged.headers["x-request-id"]


def test_an_unknown_path_and_an_unknown_method_are_problems(gateway: GatewayProcess) -> None:
    assert json.loads(curl(f"{gateway.endpoint}/nowhere").body)["code"] == "not_found"
    wrong = curl(f"{gateway.endpoint}/v1/buckets", "-X", "PATCH")
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz HTTP/1.1\r\nHost: g\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: g\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"GET /healthz HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        b"GET /healthz HTTP/1.1\nHost: g\n\n",
        b"GET /healthz HTTP/1.1\r\nHost: g\r\nX: a\nY: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost : g\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: g\r\nX: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: g\r\nContent-Length: -1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: g\r\nContent-Length: +1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: g\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: g\r\n" + b"X: a\r\n" * 500 + b"\r\n",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: g\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: g\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls hello\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
def test_broken_http_is_answered_400_and_the_connection_ends(gateway: GatewayProcess, request_bytes: bytes) -> None:
    answer = send_raw(gateway.endpoint, request_bytes)
    assert answer.status == 400
    assert json.loads(answer.body)["code"] == "bad_request"
    assert answer.headers["x-request-id"]
    assert curl(f"{gateway.endpoint}/healthz").status == 200


def test_a_smuggled_second_request_is_not_answered(gateway: GatewayProcess) -> None:
    smuggled = (
        b"POST /v1/cache/prefetch HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\nZ\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: g\r\n\r\n"
    )
    assert b"alive" not in send_raw(gateway.endpoint, smuggled).body


def test_the_buckets_are_listed_without_where_they_lie(gateway: GatewayProcess) -> None:
    answer = curl(f"{gateway.endpoint}/v1/buckets")
    names = [bucket["bucket"] for bucket in json.loads(answer.body)["buckets"]]
    assert sorted(names) == ["aws://twin", "gcp://data", "gcp://fixed", "gcp://twin"]
    assert str(gateway.cache.parent.parent).encode() not in answer.body


def test_a_listing_comes_in_pages_that_join_to_the_whole(gateway: GatewayProcess, objects: dict[str, bytes]) -> None:
    found: dict[str, int] = {}
    token = ""
    while True:
        page = json.loads(curl(f"{gateway.endpoint}/v1/buckets/fixed?limit=2&token={quote(token)}").body)
        assert len(page["objects"]) <= 2
        found |= {entry["name"]: entry["size"] for entry in page["objects"]}
        token = page["token"]
        if token is None:
            break
    assert found == {key: len(body) for key, body in objects.items()}


def test_a_listing_by_delimiter_folds_folders(gateway: GatewayProcess) -> None:
    page = json.loads(curl(f"{gateway.endpoint}/v1/buckets/fixed?delimiter=/").body)
    assert page["prefixes"] == ["folder/"]
    assert "folder/\u20ac" not in [entry["name"] for entry in page["objects"]]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "delimiter=.", "prefx=a", "prefix=%zz"])
def test_a_listing_that_can_not_be_meant_is_refused(gateway: GatewayProcess, query: str) -> None:
    assert curl(f"{gateway.endpoint}/v1/buckets/fixed?{query}").status == 400


def test_prefetch_and_evict_work_on_an_object_and_on_a_prefix(gateway: GatewayProcess) -> None:
    def state(key: str) -> str:
        return curl(gateway.url("gcp://fixed", key)).headers["x-shardgate-cache"]

    def post(action: str, what: str) -> dict[str, object]:
        answer = curl(f"{gateway.endpoint}/v1/cache/{action}?bucket=fixed&{what}", "-X", "POST")
        assert answer.status == 200
        result: dict[str, object] = json.loads(answer.body)
        return result

    post("prefetch", "object=big")
    assert state("big") == "hit"
    assert post("evict", "object=big")["evicted"] == 1
    assert post("evict", "object=big")["evicted"] == 0
    assert state("big") == "miss"
    assert post("prefetch", "prefix=folder/")["objects"] == 2
    assert state("folder/\u20ac") == "hit"
    missing = curl(f"{gateway.endpoint}/v1/cache/prefetch?bucket=fixed&object=none", "-X", "POST")
    assert missing.status == 404
    both = curl(f"{gateway.endpoint}/v1/cache/evict?bucket=fixed&object=a&prefix=b", "-X", "POST")
    assert both.status == 400
    assert json.loads(curl(f"{gateway.endpoint}/v1/cache").body)["entries"] > 0


def test_metrics_count_requests_by_route_and_status(gateway: GatewayProcess) -> None:
    def count() -> float:
        text = curl(f"{gateway.endpoint}/metrics").body.decode()
        found = re.search(r'shardgate_http_requests_total\{route="objects",status="404"\} (\S+)', text)
        return float(found[1]) if found else 0.0

    before = count()
    curl(gateway.url("gcp://data", "none"))
    assert count() == before + 1


def test_without_its_token_nothing_but_health_is_answered(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_bytes(b"secret")
    with running_gateway(
        tmp_path / "gateway", {"gcp://data": tmp_path / "data"}, settings={"serve.token": "tok\u00e9n"}
    ) as locked:
        good = ["-H", "Authorization: bearer tok\u00e9n"]
        for _ in range(3):  # the third comes from memory
            assert curl(locked.url("gcp://data", "x"), *good).body == b"secret"
            for options in ([], ["-H", "Authorization: Bearer wrong"], ["-H", "Authorization: Basic tok\u00e9n"]):
                refused = curl(locked.url("gcp://data", "x"), *options)
                assert (refused.status, b"secret" in refused.body) == (401, False)
                assert refused.headers["www-authenticate"].startswith("Bearer")
        assert curl(f"{locked.endpoint}/metrics").status == 401
        assert curl(f"{locked.endpoint}/v1/buckets").status == 401
        assert curl(f"{locked.endpoint}/healthz").status == 200
        assert curl(f"{locked.endpoint}/readyz").status == 200


def test_a_gateway_out_of_descriptors_says_so_and_recovers(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(40):
        (tmp_path / "data" / str(number)).write_bytes(b"x" * 300_000)
    with running_gateway(tmp_path / "gateway", {"gcp://data": tmp_path / "data"}, limits={"nofile": 160}) as narrow:
        with ExitStack() as stack:
            for _ in range(60):  # that say nothing: one that has its answer is closed where there are too many
                stack.enter_context(socket.create_connection(("127.0.0.1", narrow.port)))
            full = curl(narrow.url("gcp://data", "0"))
            assert full.status == 503
            assert full.headers["retry-after"]
            assert "serve.max_connections" in json.loads(full.body)["hint"]
            assert curl(f"{narrow.endpoint}/healthz").status == 200
        eventually(lambda: curl(narrow.url("gcp://data", "0")).status == 200)
        for number in range(40):
            assert curl(narrow.url("gcp://data", str(number))).body == b"x" * 300_000


def test_the_absolute_form_and_http_1_0_are_understood(gateway: GatewayProcess, objects: dict[str, bytes]) -> None:
    absolute = get_raw(gateway.endpoint, "http://somewhere/v1/objects/fixed/small")
    assert absolute.body == objects["small"]
    old = send_raw(gateway.endpoint, b"GET /v1/objects/fixed/big HTTP/1.0\r\n\r\n")
    assert (old.status, old.body) == (200, objects["big"])
