"""GET, HEAD, PUT and DELETE over a real socket, against a gateway that is a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from gateway_process import eventually
from readers import curl, get_raw, parse_head, send_raw

if TYPE_CHECKING:
    from pathlib import Path

    from gateway_process import GatewayProcess
    from readers import Answer


def url(gateway: GatewayProcess, key: str, **query: Any) -> str:
    return gateway.url("gcp://data", key, **query)


def said(answer: Answer) -> dict[str, str]:
    problem: dict[str, str] = json.loads(answer.body)
    assert set(problem) == {"code", "message", "hint", "request_id"}
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


def put(gateway: GatewayProcess, key: str, body: bytes, *options: str) -> Answer:
    path = gateway.cache.parent / "upload"
    path.write_bytes(body)
    return curl(url(gateway, key), "-T", str(path), *options)


@pytest.mark.parametrize("key", ["big", "small", "empty", "a.tar", "a.tar.gz", "folder/a b%2F#?.bin", "folder/\u20ac"])
def test_an_object_arrives_whole_cold_and_warm(gateway: GatewayProcess, objects: dict[str, bytes], key: str) -> None:
    for _ in range(3):
        answer = curl(url(gateway, key), "--compressed")
        assert (answer.exit, answer.status, answer.body) == (0, 200, objects[key])
        assert answer.headers["content-length"] == str(len(objects[key]))
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["etag"].startswith('"')
        assert "last-modified" in answer.headers
        assert "content-encoding" not in answer.headers


def test_the_answer_says_where_the_bytes_came_from(gateway: GatewayProcess, objects: dict[str, bytes]) -> None:
    put(gateway, "told", objects["big"])
    states = [curl(url(gateway, "told")).headers["x-shardgate-cache"] for _ in range(2)]
    assert states[0] == "miss"
    eventually(lambda: curl(url(gateway, "told")).headers["x-shardgate-cache"] == "hit")


@pytest.mark.parametrize("key", ["big", "small"])
@pytest.mark.parametrize(
    ("header", "span"), [("0-0", (0, 1)), ("100-199", (100, 200)), ("4000-", (4000, None)), ("-10", (-10, None))]
)
def test_a_range_is_answered_with_206(
    gateway: GatewayProcess, objects: dict[str, bytes], key: str, header: str, span: tuple[int, int | None]
) -> None:
    answer = curl(url(gateway, key), "-r", header)
    expected = objects[key][slice(*span)]
    assert (answer.status, answer.body) == (206, expected)
    assert answer.headers["content-length"] == str(len(expected))
    assert answer.headers["content-range"].endswith(f"/{len(objects[key])}")


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "bytes=x-y", "bytes=5-2", "bytes=\u0661-\u0662", "lines=1-2"])
def test_ranges_that_are_several_or_malformed_give_the_whole_body(
    gateway: GatewayProcess, objects: dict[str, bytes], header: str
) -> None:
    answer = get_raw(gateway.endpoint, "/v1/objects/data/small?provider=gcp", Range=header)
    assert (answer.status, answer.body) == (200, objects["small"])


def test_a_range_behind_the_end_is_416_with_the_size(gateway: GatewayProcess) -> None:
    answer = curl(url(gateway, "small"), "-r", "4096-")
    assert answer.status == 416
    assert answer.headers["content-range"] == "bytes */4096"
    assert said(answer)["code"] == "range_not_satisfiable"


def test_if_range_of_an_old_version_gives_the_whole_body(gateway: GatewayProcess, objects: dict[str, bytes]) -> None:
    etag = curl(url(gateway, "small")).headers["etag"]
    current = curl(url(gateway, "small"), "-r", "0-9", "-H", f"If-Range: {etag}")
    assert (current.status, current.body) == (206, objects["small"][:10])
    assert curl(url(gateway, "small"), "-r", "0-9", "-H", 'If-Range: "old"').status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_conditions_are_answered_for_get_and_head(gateway: GatewayProcess, method: str) -> None:
    options = ["-I"] if method == "HEAD" else []
    first = curl(url(gateway, "small"), *options)
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    unchanged = curl(url(gateway, "small"), *options, "-H", f'If-None-Match: "x", W/{etag}')
    assert (unchanged.exit, unchanged.status, unchanged.headers["etag"]) == (0, 304, etag)
    assert curl(url(gateway, "small"), *options, "-H", f"If-Modified-Since: {modified}").status == 304
    assert curl(url(gateway, "small"), *options, "-H", f"If-Match: {etag}").status == 200
    assert curl(url(gateway, "small"), *options, "-H", 'If-Match: "x"').status == 412


def test_a_condition_is_answered_without_a_fetch(gateway: GatewayProcess, objects: dict[str, bytes]) -> None:
    etag = put(gateway, "unread", objects["small"]).headers["etag"]
    assert curl(url(gateway, "unread"), "-H", f"If-None-Match: {etag}").status == 304
    assert curl(url(gateway, "unread")).headers["x-shardgate-cache"] == "miss"


def test_head_tells_what_get_would(gateway: GatewayProcess) -> None:
    head, get = curl(url(gateway, "big"), "-I"), curl(url(gateway, "big"))
    for name in ("content-length", "etag", "last-modified", "content-type", "accept-ranges"):
        assert head.headers[name] == get.headers[name]
    missing = curl(url(gateway, "nothing"), "-I")
    assert (missing.exit, missing.status) == (0, 404)


def test_one_connection_serves_many_requests_of_all_kinds(gateway: GatewayProcess, objects: dict[str, bytes]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    for _ in range(3):
        for method, key, status in [
            ("GET", "small", 200),
            ("HEAD", "big", 200),
            ("GET", "big", 200),
            ("GET", "gone", 404),
            ("HEAD", "gone", 404),
            ("GET", "empty", 200),
            ("DELETE", "gone", 404),
        ]:
            connection.request(method, f"/v1/objects/data/{key}")
            response = connection.getresponse()
            body = response.read()
            assert response.status == status
            assert method == "HEAD" or status != 200 or body == objects[key]
    connection.close()


def test_a_put_is_seen_by_the_next_get_and_head_and_list(gateway: GatewayProcess) -> None:
    for body in (b"one", b"two!", os.urandom(3_000_000), b""):
        stored = put(gateway, "written", body, "-H", "Content-Type: application/x-tar")
        assert stored.status == 200
        answer = curl(url(gateway, "written"))
        assert answer.body == body
        assert answer.headers["etag"] == stored.headers["etag"]
        assert curl(url(gateway, "written"), "-I").headers["content-length"] == str(len(body))
        listed = {info.name: info.size for info in gateway.client.list("gcp://data", "writ")}
        assert listed == {"written": len(body)}


def test_a_put_in_chunks_of_unknown_length_is_stored(gateway: GatewayProcess) -> None:
    body = os.urandom(300_000)
    answer = put(gateway, "chunked", body, "-H", "Transfer-Encoding: chunked")
    assert answer.status == 200
    assert curl(url(gateway, "chunked")).body == body


def test_a_gzipped_upload_is_stored_byte_by_byte(gateway: GatewayProcess) -> None:
    body = b"\x1f\x8b not really gzip"
    assert put(gateway, "x.gz", body, "-H", "Content-Encoding: gzip").status == 200
    assert curl(url(gateway, "x.gz"), "--compressed").body == body


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_put_that_breaks_off_stores_nothing(gateway: GatewayProcess, framing: str) -> None:
    put(gateway, "kept", b"before")
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        start = f"PUT /v1/objects/data/kept?provider=gcp HTTP/1.1\r\nHost: g\r\n{framing}\r\n\r\n"
        client.sendall(start.encode() + b"5\r\nhello\r\n")
        eventually(lambda: b"shardgate_http_running 2.0" in curl(f"{gateway.endpoint}/metrics").body)
    eventually(lambda: b"shardgate_http_running 1.0" in curl(f"{gateway.endpoint}/metrics").body)
    assert curl(url(gateway, "kept")).body == b"before"
    assert [info.name for info in gateway.client.list("gcp://data", "kept")] == ["kept"]


def test_a_put_may_demand_that_the_object_is_new_or_unchanged(gateway: GatewayProcess) -> None:
    first = put(gateway, "guarded", b"1", "-H", "If-None-Match: *")
    assert first.status == 200
    assert said(put(gateway, "guarded", b"2", "-H", "If-None-Match: *"))["code"] == "precondition_failed"
    assert put(gateway, "guarded", b"2", "-H", 'If-Match: "x"').status == 412
    assert put(gateway, "guarded", b"2", "-H", f"If-Match: {first.headers['etag']}").status == 200
    assert put(gateway, "missing", b"2", "-H", "If-Match: *").status == 412
    assert curl(url(gateway, "guarded")).body == b"2"


def test_a_deleted_object_is_gone_also_from_the_cache(gateway: GatewayProcess) -> None:
    put(gateway, "doomed", b"x")
    assert curl(url(gateway, "doomed")).status == 200
    assert curl(url(gateway, "doomed"), "-X", "DELETE").status == 204
    assert curl(url(gateway, "doomed")).status == 404
    assert curl(url(gateway, "doomed"), "-X", "DELETE").status == 404


def test_a_read_only_bucket_refuses_writes_before_their_body(gateway: GatewayProcess) -> None:
    request = b"PUT /v1/objects/fixed/x HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(request)
        answer = client.recv(65536)
    assert parse_head(answer)[0] in {400, 403}
    assert b"100 Continue" not in answer
    assert curl(gateway.url("gcp://fixed", "small"), "-X", "DELETE").status in {400, 403}


def test_a_client_that_asks_first_is_told_to_go_on(gateway: GatewayProcess) -> None:
    target = b"/v1/objects/data/asked?provider=gcp"
    request = b"PUT %s HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n" % target
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(request)
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"ok")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    strange = request.replace(b"100-continue", b"a-miracle").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert send_raw(gateway.endpoint, strange).status == 417


def test_one_member_of_a_tar_is_an_object_of_its_own(gateway: GatewayProcess, objects: dict[str, bytes]) -> None:
    member = objects["big"][:100_000]
    whole = curl(url(gateway, "a.tar", archpath="d/y z.bin"))
    assert (whole.status, whole.body) == (200, member)
    part = curl(url(gateway, "a.tar", archpath="d/y z.bin"), "-r", "5-9")
    assert (part.status, part.body) == (206, member[5:10])
    etag = whole.headers["etag"]
    assert etag != curl(url(gateway, "a.tar")).headers["etag"]
    assert curl(url(gateway, "a.tar", archpath="d/y z.bin"), "-H", f"If-None-Match: {etag}").status == 304
    head = curl(url(gateway, "a.tar", archpath="d/y z.bin"), "-I")
    assert (head.headers["content-length"], head.headers["etag"]) == ("100000", etag)
    assert curl(url(gateway, "a.tar", archpath="empty")).body == b""
    missing = curl(url(gateway, "a.tar", archpath="nobody"))
    assert missing.status == 404
    assert "'nobody'" in said(missing)["message"]
    assert curl(url(gateway, "small", archpath="x")).status == 400


def test_the_provider_may_be_left_out_where_the_name_is_clear(
    gateway: GatewayProcess, objects: dict[str, bytes]
) -> None:
    assert curl(f"{gateway.endpoint}/v1/objects/data/small").body == objects["small"]
    assert curl(f"{gateway.endpoint}/v1/objects/data/small?provider=gs").body == objects["small"]
    several = curl(f"{gateway.endpoint}/v1/objects/twin/x")
    assert several.status == 400
    assert "gcp://twin" in said(several)["message"]
    assert "aws://twin" in said(several)["message"]
    unknown = curl(f"{gateway.endpoint}/v1/objects/nowhere/x")
    assert unknown.status == 404
    assert "gcp://data" in said(unknown)["hint"]
    assert curl(f"{gateway.endpoint}/v1/objects/data/small?provider=aws").status == 404


@pytest.mark.parametrize(
    "target",
    [
        "/v1/objects/data/../../../etc/passwd",
        "/v1/objects/data/%2e%2e/%2e%2e/etc/passwd",
        "/v1/objects/data/..%2f..%2fetc%2fpasswd",
        "/v1/objects/data/small%00",
        "/v1/objects/data/%zz",
        "/v1/objects/data/%ff",
        "/v1/objects/data/" + "x" * 1025,
        "/v1/objects/data/",
        "/v1/objects/data",
        "/v1/objects/data/small?transfrom_id=x",
        "/v1/objects/data/small?seed=1",
    ],
)
def test_a_target_that_could_be_misunderstood_is_a_clear_400(gateway: GatewayProcess, target: str) -> None:
    answer = get_raw(gateway.endpoint, target)
    assert answer.status == 400
    assert said(answer)["code"] == "bad_request"


def test_an_object_and_one_below_it_do_not_stand_in_for_each_other(gateway: GatewayProcess) -> None:
    assert curl(url(gateway, "small/x")).status == 404
    assert curl(url(gateway, "folder")).status == 404
    assert get_raw(gateway.endpoint, "/v1/objects/data/folder%2F%E2%82%AC").body == b"unicode"


def test_a_small_file_that_changes_behind_the_gateway_is_read_anew(gateway: GatewayProcess) -> None:
    put(gateway, "changing", b"old")
    assert curl(url(gateway, "changing")).body == b"old"
    path: Path = gateway.cache.parent.parent / "data" / "changing"
    path.write_bytes(b"newer")
    assert curl(url(gateway, "changing")).body == b"newer"


@pytest.mark.parametrize("value", [b"text/\xff", b"text/\xc3\xa9", b"a/b\tc"])
def test_a_content_type_that_is_not_ascii_is_refused(gateway: GatewayProcess, value: bytes) -> None:
    head = b"PUT /v1/objects/data/typed?provider=gcp HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Type: "
    answer = send_raw(gateway.endpoint, head + value + b"\r\nConnection: close\r\n\r\n1")
    assert answer.status == 400


def test_a_missing_object_does_not_tell_where_the_folder_lies(gateway: GatewayProcess) -> None:
    problem = said(curl(url(gateway, "not/there")))
    assert problem["message"] == "gcp://data/not/there: no such object"
