"""No foreign exception leaves a store: every exception of obstore and aiohttp has a rule."""

from __future__ import annotations

import inspect

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from multidict import CIMultiDict, CIMultiDictProxy
from obstore import exceptions as obstore
from yarl import URL

from shardgate_gateway import errors
from shardgate_gateway.errors import GatewayError, NotFound
from shardgate_gateway.stores.translate import FILES, Body, storing, summary, translate, translating

URL_ = URL("http://host/key")
REQUEST = RequestInfo(URL_, "GET", CIMultiDictProxy(CIMultiDict()), URL_)
CONNECTION = ConnectionKey("host", 80, False, True, None, None, None)


def subclasses(base):
    return {base, *(found for child in base.__subclasses__() for found in subclasses(child))}


def example_of(kind):
    """An instance, whatever its constructor wants."""
    for arguments in (
        (CONNECTION, OSError(111, "refused")),
        ("path.sock", CONNECTION, OSError(111, "refused")),
        (REQUEST, ()),
        (b"expected", b"got", "host", 80),
        (CONNECTION, ValueError("certificate")),
        ("a message",),
        (),
    ):
        try:
            error = kind(*arguments)
            str(error)
        except (TypeError, AttributeError):
            continue
        return error
    raise AssertionError(f"can't make a {kind}")


@pytest.mark.parametrize(
    "kind", [kind for _, kind in inspect.getmembers(obstore, inspect.isclass) if issubclass(kind, Exception)]
)
def test_every_exception_of_obstore_becomes_ours(kind):
    assert isinstance(translate(kind("text"), "aws://b/k"), GatewayError)


@pytest.mark.parametrize("kind", sorted(subclasses(aiohttp.ClientError), key=lambda kind: kind.__name__))
def test_every_client_exception_of_aiohttp_becomes_ours(kind):
    assert isinstance(translate(example_of(kind), "http://b/k"), GatewayError)


@pytest.mark.parametrize("kind", [TimeoutError, ConnectionResetError, BrokenPipeError, PermissionError, OSError])
def test_every_failure_of_the_system_becomes_ours(kind):
    assert isinstance(translate(kind("text"), "file://b/k"), GatewayError)


@pytest.mark.parametrize("number", [*FILES, 5, 28, 122, 0])
def test_every_errno_becomes_ours(number):
    assert isinstance(translate(OSError(number, "text"), "file://b/k"), GatewayError)


def test_a_bug_of_ours_stays_a_bug():
    with pytest.raises(ZeroDivisionError), translating("aws://b/k"):
        _ = 1 / 0


def test_our_errors_pass_unchanged():
    ours = NotFound("x", hint="y")
    with pytest.raises(NotFound) as caught, translating("aws://b/k"):
        raise ours
    assert caught.value is ours


def test_a_message_names_the_object_and_carries_neither_query_nor_debug_text_nor_chain():
    text = (
        "Generic S3 error: Error performing GET http://host/b/k?sig=SECRET&x=1 in 3ms - Server returned non-2xx status "
        "code: 503: <?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce\n your rate</Message></Error>"
        "\n\nDebug source:\nGeneric { uri: http://host/b/k?sig=SECRET, status: 503 }"
    )
    with pytest.raises(errors.UpstreamUnavailable) as caught, translating("aws://b/k"):
        raise obstore.GenericError(text)
    message = caught.value.message
    assert message.startswith("aws://b/k: ")
    assert "SlowDown: Reduce your rate" in message
    assert "SECRET" not in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_message_tells_no_location_and_no_password_of_it():
    text = "Generic S3 error: Error performing GET http://user:SECRET@host/b/k?sig=SECRET in 3ms - connection refused"
    message = translate(obstore.GenericError(text), "aws://b/k").message
    assert message == "aws://b/k: Generic S3 error: Error performing GET the store in 3ms - connection refused"


def test_a_message_has_an_end():
    assert len(summary(obstore.GenericError("x" * 100_000))) <= 300


@pytest.mark.parametrize(
    "text", ["<Code>", "<Code>a</Code><Message>", "?", "<Code>x</Code>?<", "\x1b]0;\n", "status: "]
)
def test_a_message_is_short_and_plain_whatever_a_store_answers(text):
    error = translate(obstore.GenericError(f"Generic S3 error: {text * 100_000}"), "aws://b/k")
    assert len(error.message) <= 320
    assert error.message.isprintable()


def test_the_cause_at_the_end_of_a_long_answer_is_found():
    error = translate(obstore.GenericError("x" * 1_000_000 + "\n\nDebug source:\n kind: Connect"), "aws://b/k")
    assert isinstance(error, errors.UpstreamUnavailable)


@pytest.mark.parametrize("kind", [FileNotFoundError, PermissionError, OSError, NotADirectoryError])
def test_an_error_of_a_file_tells_no_path(kind):
    for number in (13, 5, 28):
        error = translate(kind(number, "word", "/srv/secret/a"), "file://b/a")
        assert error.message == "file://b/a: word"


@pytest.mark.parametrize("number", [2, 6, 19])
def test_what_is_not_there_is_told_without_the_systems_words(number):
    error = translate(OSError(number, "word", "/srv/secret/a"), "file://b/a")
    assert error.message == "file://b/a: no such object"


async def test_the_senders_error_is_not_the_stores():
    async def chunks():
        yield b"1"
        raise ConnectionResetError("the client left")

    async def upload(body):
        try:
            async for _ in body:
                pass
        except ConnectionResetError:
            raise obstore.GenericError("upload failed") from None

    body = Body(chunks())
    with pytest.raises(ConnectionResetError, match="the client left"), storing(body, "aws://b/k"):
        await upload(body)
