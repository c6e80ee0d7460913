"""Error answers of any length and kind become an exception that shows what a person can read."""

from __future__ import annotations

from typing import Any

import pytest
from fake_gateway import FakeGateway, fake_gateway

from shardgate.errors import TransformFailed
from shardgate.transport import MAX_ERROR_BYTES, MAX_MESSAGE, Transport


def answered(problem: dict[str, Any] | bytes) -> TransformFailed:
    with fake_gateway() as gateway:
        start_error(gateway, problem)
        transport = Transport(gateway.url, None, 30)
        with pytest.raises(TransformFailed) as caught:
            transport.request("POST", "/v1/transforms/t/start")
        transport.close()
    return caught.value


def start_error(gateway: FakeGateway, problem: Any) -> None:
    gateway.packages["t"] = b""
    gateway.start_error = problem


@pytest.mark.parametrize("filling", ["x", '"', "\\", "é", "\U0001f600", "\n"])
@pytest.mark.parametrize("shift", range(4))
def test_the_beginning_of_a_message_longer_than_we_read_is_shown(filling: str, shift: int) -> None:
    message = "ValueError: does not match " + "-" * shift + filling * (MAX_ERROR_BYTES)
    error = answered({"code": "sample_failed", "message": message, "hint": "h", "request_id": "r"})
    assert error.message.startswith("ValueError: does not match")
    assert len(error.message) <= MAX_MESSAGE
    assert error.status == 422


def test_a_long_message_that_was_read_whole_is_shortened_and_keeps_its_code_and_hint() -> None:
    error = answered({"code": "worker_lost", "message": "m" * 500_000, "hint": "h", "request_id": "r-7"})
    assert error.message.startswith("mmm")
    assert len(error.message) == MAX_MESSAGE
    assert (error.code, error.hint, error.request_id) == ("worker_lost", "h", "r-7")


@pytest.mark.parametrize("body", [b"<html>no</html>", b"[1]", b" ", b"\xff\xfe", b"[" * 200_000])
def test_an_answer_that_is_not_ours_is_judged_by_its_status(body: bytes) -> None:
    assert answered(body).message == "HTTP status 422 Unprocessable Entity"


def test_terminal_escapes_of_an_error_are_shown_as_text() -> None:
    assert answered({"message": "a\x1b[2J"}).message == "a\\x1b[2J"
