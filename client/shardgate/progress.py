"""Telling somebody who waits for a start how it goes."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shardgate.errors import ShardgateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardgate.admin import TransformsApi

POLL_SECONDS = 0.5


@contextmanager
def told(transforms: TransformsApi, transform_id: str) -> Iterator[None]:
    """Print what becomes of a transform's workers while the block runs: each new message once, with its hint."""
    done = threading.Event()
    teller = threading.Thread(target=_tell, args=(transforms, transform_id, done), daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _tell(transforms: TransformsApi, transform_id: str, done: threading.Event) -> None:
    said = ""
    while not done.wait(POLL_SECONDS):
        try:
            record = transforms.show(transform_id)
        except ShardgateError:
            continue  # whoever starts it hears of that
        message = f"{record['state']}: {record['message']}" if record["message"] else ""
        if message and message != said and not done.is_set():
            said = message
            print(f"  {message}" + (f"\n    hint: {record['hint']}" if record["hint"] else ""), flush=True)
