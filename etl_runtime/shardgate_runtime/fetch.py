"""What a pod gets from a gateway before it can begin: its package, and the environment that its image lacks.

A pod may start sooner than the gateway, or while the one behind the Service is being replaced, so a gateway that can't
be reached is asked again for a while. A gateway that says no is believed.
"""

from __future__ import annotations

import http.client
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from shardgate_runtime.clock import clock
from shardgate_runtime.failures import StartupError, describe
from shardgate_runtime.http_get import BadRedirect, framing_of, get, text_of

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
"""For a gateway that can't be reached, or answers that it can't answer now."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts; each pause is twice the one before."""
PART_BYTES = 1 << 20
FINAL = range(400, 500)
HINTS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "the pod's token has expired or was signed with another key; starting the transform again "
    "makes a new one",
    HTTPStatus.FORBIDDEN: "the pod's token is not for this transform; start the transform again",
    HTTPStatus.NOT_FOUND: "it was deleted; register the transform again",
}


def fetch(what: str, url: str, token_file: Path | None, target: Path) -> None:
    """Download a URL into a file.

    Args:
        what: For messages: "the package".
        url: Of a gateway.
        token_file: Holds the bearer token, if one is needed; read for every attempt, for it may be renewed.
        target: Written whole, or not at all.

    Raises:
        StartupError: It can't be had; `transient` where a later start may have more luck.
    """
    deadline = clock.monotonic() + PATIENCE_SECONDS
    pause = FIRST_PAUSE
    while True:
        try:
            _download(what, url, _token(token_file), target)
        except (OSError, http.client.HTTPException, _NotNow) as error:
            if clock.monotonic() + pause > deadline:
                raise StartupError(
                    f"{what} can't be fetched from {url}: {describe(error)}",
                    "is the gateway running, and may pods of this namespace reach it?",
                    transient=True,
                ) from error
            log.info("%s can't be fetched yet: %s", what, describe(error))
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            return


class _NotNow(Exception):
    """The server answered, but neither yes nor no."""


def _token(file: Path | None) -> str:
    return file.read_text(encoding="ascii").strip() if file else ""


def _download(what: str, url: str, token: str, target: Path) -> None:
    try:
        response = get(url, {"Accept-Encoding": "identity"}, token)
    except BadRedirect as error:
        raise StartupError(f"{what}: {error}") from error
    if response.status != HTTPStatus.OK:
        said = f"{url} answered {response.status}: {text_of(response)}"
        if response.status in FINAL:
            raise StartupError(f"{what} can't be fetched: {said}", HINTS.get(response.status, ""))
        raise _NotNow(said)
    size, problem = framing_of(response)
    if problem:
        response.close()
        raise _NotNow(f"the end of {url} can't be known: {problem}")
    part = target.with_name(f"{target.name}.part")
    with response, part.open("wb") as file:
        count = 0
        while data := response.read(PART_BYTES):
            count += file.write(data)
    if size is not None and count != size:
        raise _NotNow(f"the connection closed at byte {count} of {size}")
    part.replace(target)
