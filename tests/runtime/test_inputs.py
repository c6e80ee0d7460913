from __future__ import annotations

import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import raw_answers
from hypothesis import given
from hypothesis import strategies as st
from raw_answers import CUT, ENDING, ENDLESS, answering

from shardgate_runtime import fetch, inputs
from shardgate_runtime.failures import JobFailed, StartupError
from shardgate_runtime.inputs import FileInput, HttpInput

BODY = os.urandom(300_000)
V1 = '"v1"'


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40_000)), max_size=20), st.integers(0, 50_000))
def test_a_file_gives_the_same_bytes_in_any_portions(steps: list[tuple[bool, int]], start: int) -> None:
    body = BODY[:100_000]
    fd = os.memfd_create("shard")
    os.write(fd, b"head" + body + b"foot")
    source = FileInput(fd, 4, len(body), start)
    for skip, count in steps:
        at = source.position
        if skip:
            assert source.skip_to(at + count) is (at + count <= len(body))
        else:
            assert source.read(count) == body[at : at + count]
            assert source.position == min(at + count, len(body))
    source.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_a_file_shorter_than_the_job_says_is_unavailable_and_not_the_end() -> None:
    fd = os.memfd_create("shard")
    os.write(fd, b"x" * 100)
    source = FileInput(fd, 0, 200, 0)
    with pytest.raises(JobFailed, match="ends at byte 100 of 200") as caught:
        source.read(150)
    assert caught.value.failure.code == "input_unavailable"
    source.close()


class Origin(BaseHTTPRequestHandler):
    """Serves BODY; `server.faults` say, request by request, after how many bytes to cut, or which status to answer."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers))
        fault = server.faults.pop(0) if server.faults else {}
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if "status" in fault:
            more = {"Content-Range": fault.get("range"), "Retry-After": fault.get("later"), "Location": fault.get("to")}
            self._answer(
                fault["status"],
                b'{"code": "other", "message": "not now"}',
                {name: more[name] for name in more if more[name]},
            )
            return
        self.send_response(206 if "Range" in self.headers and not fault.get("ignore_range") else 200)
        self.send_header("ETag", fault.get("etag", V1))
        body = BODY[start:]
        if start:
            self.send_header("Content-Range", f"bytes {start + fault.get('shift', 0)}-{len(BODY) - 1}/{len(BODY)}")
        if fault.get("chunked") or server.chunked:
            self._chunked(body, fault.get("cut"))
            return
        self.send_header("Content-Length", str(fault.get("length", len(body))))
        self.end_headers()
        self.wfile.write(body[: fault.get("cut")])
        if "cut" in fault:
            self.close_connection = True
            if fault.get("reset"):
                linger = b"\x01\0\0\0\0\0\0\0"
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _chunked(self, body: bytes, cut: int | None) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        part = body[:cut]
        self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if part else b"")
        if cut is None:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def _answer(self, status: int, body: bytes, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inputs, "BACKOFF", (0.0, 0.0, 0.0))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    server.faults, server.requests, server.chunked = [], [], False
    server.url = f"http://127.0.0.1:{server.server_port}/v1/objects/b/a%20b.tar?provider=mem"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("at", [0, 1000])
def test_an_empty_member_is_not_the_end_of_the_shard(origin, chunked: bool, at: int) -> None:
    origin.chunked = chunked
    source = HttpInput(origin.url, "", V1, 0)
    assert source.read(at) == BODY[:at]
    assert source.read(0) == b""
    assert read_all(source) == BODY[at:]
    assert source.read(0) == b""
    assert len(origin.requests) == 1


def read_all(source: HttpInput, portion: int = 7000) -> bytes:
    parts = []
    while data := source.read(portion):
        parts.append(data)
    source.close()
    return b"".join(parts)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("start", [0, 1, 299_999])
def test_a_shard_is_pulled_from_any_byte_on(origin, chunked: bool, start: int) -> None:
    origin.chunked = chunked
    assert read_all(HttpInput(origin.url, "secret", V1, start)) == BODY[start:]
    (request,) = origin.requests
    assert request["Authorization"] == "Bearer secret"
    assert request["If-Match"] == '"v1"'


def test_nothing_is_left_behind_the_last_byte(origin) -> None:
    origin.faults = [{"status": 416, "range": f"bytes */{len(BODY)}"}]
    assert read_all(HttpInput(origin.url, "", V1, len(BODY))) == b""


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("reset", [False, True])
def test_a_lost_connection_is_continued_by_range_at_the_same_version(origin, chunked: bool, reset: bool) -> None:
    origin.chunked = chunked
    origin.faults = [{"cut": 100_000, "reset": reset}, {"cut": 1, "reset": reset}, {"cut": 0}]
    assert read_all(HttpInput(origin.url, "", V1, 0)) == BODY
    assert all(request["If-Match"] == '"v1"' for request in origin.requests)
    assert len(origin.requests) == 4


@pytest.mark.parametrize("chunked", [False, True])
def test_what_came_before_a_break_is_kept_however_much_was_asked_for_at_once(origin, chunked: bool) -> None:
    origin.chunked = chunked
    origin.faults = [{"cut": 50_000, "reset": False}] * 5
    assert HttpInput(origin.url, "", V1, 0).read(len(BODY)) == BODY
    assert len(origin.requests) == 6


def test_a_gateway_that_has_too_much_to_do_is_asked_again(origin) -> None:
    origin.faults = [{"status": 503, "later": "1"}, {"cut": 10}, {"status": 503, "later": "1"}]
    assert read_all(HttpInput(origin.url, "", V1, 0)) == BODY


def test_redirects_are_followed_and_another_host_does_not_get_the_token(origin) -> None:
    elsewhere = origin.url.replace("127.0.0.1", "localhost")
    origin.faults = [{"status": 307, "to": "/elsewhere"}, {"status": 302, "to": elsewhere}]
    assert read_all(HttpInput(origin.url, "secret", V1, 0)) == BODY
    assert [request.get("Authorization") for request in origin.requests] == ["Bearer secret", "Bearer secret", None]


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ([{"status": 307, "to": "file:///etc/passwd"}], "neither http nor https"),
        ([{"status": 307, "to": "/again"}] * 9, "more than 5 times"),
        ([{"status": 412}], "answered 412: not now"),
        ([{"cut": 10}, {"status": 412}], "answered 412: not now"),
        ([{"status": 503}], "answered 503"),
        ([{"status": 503, "later": "1"}] * 4, "failed 4 times: answered 503: not now"),
        ([{"status": 404}], "answered 404"),
        ([{"cut": 10}, {"status": 416, "range": "bytes */9"}], "answered 416"),
        ([{"cut": 10}, {"ignore_range": True}], "answered 200"),
        ([{"cut": 10}, {"shift": 5}], "another range"),
        ([{"cut": 0}] * 4, "failed 4 times"),
        ([{"cut": 10, "length": 999}, {}], "changed its size from 999"),
    ],
)
def test_an_origin_that_fails_or_lies_makes_the_input_unavailable(origin, faults: list, reason: str) -> None:
    origin.faults = list(faults)
    source = HttpInput(origin.url, "", V1, 0)
    with pytest.raises(JobFailed, match=reason) as caught:
        read_all(source)
    assert caught.value.failure.code == "input_unavailable"
    source.close()


def test_skipping_reads_on_and_notices_the_end(origin) -> None:
    source = HttpInput(origin.url, "", V1, 0)
    assert source.skip_to(1000)
    assert source.read(10) == BODY[1000:1010]
    assert not source.skip_to(len(BODY) + 1)
    source.close()


@pytest.mark.parametrize("chunked", [False, True])
def test_reading_all_at_once_is_limited(origin, chunked: bool) -> None:
    origin.chunked = chunked
    source = HttpInput(origin.url, "", V1, 0)
    assert source.read_all(len(BODY)) == BODY
    source.close()
    source = HttpInput(origin.url, "", V1, 0)
    with pytest.raises(ValueError, match="bytes that fit"):
        source.read_all(len(BODY) - 1)
    source.close()


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
def test_a_shard_that_only_a_close_ends_is_never_whole(answer: bytes) -> None:
    with answering(answer) as url:
        source = HttpInput(f"{url}/a.tar", "", V1, 0)
        with pytest.raises(JobFailed, match=r"the end of .* can't be known") as caught:
            read_all(source)
        source.close()
    assert caught.value.failure.code == "input_unavailable"


@pytest.mark.parametrize("answer", ENDING.values(), ids=ENDING)
def test_a_shard_whose_end_is_told_is_read(answer: bytes) -> None:
    with answering(answer) as url:
        assert read_all(HttpInput(f"{url}/a.tar", "", V1, 0)) == raw_answers.BODY


@pytest.mark.parametrize("position", [0, 1000])
def test_bytes_of_another_version_are_never_read(origin, position: int) -> None:
    source = HttpInput(origin.url, "", V1, position)
    origin.faults = [{"etag": '"v2"'}]
    with pytest.raises(JobFailed, match='has the version "v2" by now'):
        source.read(10)
    source.close()


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS)
def test_a_package_that_only_a_close_ends_is_not_stored(tmp_path, monkeypatch: pytest.MonkeyPatch, answer) -> None:
    monkeypatch.setattr(fetch, "PATIENCE_SECONDS", 0.0)
    with answering(answer) as url, pytest.raises(StartupError, match=r"the end of .* can't be known"):
        fetch.fetch("the package", f"{url}/package", None, tmp_path / "package")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
def test_a_chunked_shard_that_was_cut_anywhere_is_not_whole(tmp_path, monkeypatch: pytest.MonkeyPatch, answer) -> None:
    monkeypatch.setattr(inputs, "BACKOFF", ())
    monkeypatch.setattr(fetch, "PATIENCE_SECONDS", 0.0)
    with answering(answer) as url:
        source = HttpInput(f"{url}/a.tar", "", V1, 0)
        with pytest.raises(JobFailed, match="failed 1 times"):
            read_all(source)
        source.close()
        with pytest.raises(StartupError, match="can't be fetched"):
            fetch.fetch("the package", f"{url}/package", None, tmp_path / "package")
