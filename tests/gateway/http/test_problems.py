"""One table from our errors to HTTP."""

from __future__ import annotations

import errno
import json
import logging

import pytest

from shardgate_gateway import errors
from shardgate_gateway.http import problems


def all_errors() -> list[type[errors.GatewayError]]:
    """Those that a client can tell apart: a kind that only our own code tells apart shares its parent's code."""
    found = [errors.GatewayError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if "code" in vars(kind)]


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_a_status_of_its_own_choice(kind: type[errors.GatewayError]) -> None:
    assert kind in problems.STATUS


def test_every_code_means_one_error() -> None:
    codes = [kind.code for kind in all_errors()]
    assert sorted(set(codes)) == sorted(codes)


def test_a_problem_names_cause_hint_and_request() -> None:
    response = problems.problem(errors.NotFound("no such thing", hint="look elsewhere"), "r-1")
    assert response.status == 404
    assert json.loads(bytes(response.body)) == {
        "code": "not_found",
        "message": "no such thing",
        "hint": "look elsewhere",
        "request_id": "r-1",
    }


def test_who_may_try_again_is_told_when() -> None:
    assert problems.problem(errors.Busy("full", retry_after=2.5), "r").headers["Retry-After"] == "3"
    assert problems.problem(errors.UpstreamUnavailable("down"), "r").headers["Retry-After"] == "1"
    assert "Retry-After" not in problems.problem(errors.SampleError("broken"), "r").headers


def test_an_unsatisfiable_range_tells_the_size() -> None:
    response = problems.problem(errors.RangeNotSatisfiable("behind", size=7), "r")
    assert (response.status, response.headers["Content-Range"]) == (416, "bytes */7")


def test_an_unexpected_exception_is_logged_with_its_request_and_hidden_from_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        error = problems.as_gateway_error(ZeroDivisionError("secret"), "r-9")
    assert problems.status_of(error) == 500
    assert "secret" not in error.message + error.hint
    assert "r-9" in error.hint
    assert "r-9" in caplog.text
    assert "secret" in caplog.text


def test_a_want_of_descriptors_is_busy_and_no_bug() -> None:
    error = problems.as_gateway_error(OSError(errno.EMFILE, "Too many open files"), "r")
    assert problems.status_of(error) == 503
