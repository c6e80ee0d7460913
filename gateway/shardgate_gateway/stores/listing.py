"""List an obstore client by plain string prefix, from any place, folding at `/`, in bounded memory.

obstore lists a folder in order and can start behind a given key. So for the prefix `a/train-00` we list the folder
`a`, starting right before `a/train-00`, and stop at the first key behind it. A folder that is folded is named once;
when it turns out to be big, the listing starts anew behind it instead of reading through it.

Two things can't be told from what obstore says. An object whose key ends in `/` (consoles make such markers for
"folders") appears without the slash; an empty object is therefore taken for a marker, and left out, when keys below it
follow. And keys with empty parts (`a//b`) appear without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import obstore

from shardgate_gateway.errors import BadRequest
from shardgate_gateway.stores.keys import is_key, may_begin_keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from obstore import ObjectMeta as Described
    from obstore.store import ObjectStore

BATCH = 1000
"""Keys per request: what S3 sends at most. So many keys of one folded folder are read before it is jumped."""
LAST = "\U0010ffff"
"""Sorts behind everything that can follow a prefix."""
SURROGATES = range(0xD800, 0xE000)


async def walk(
    client: ObjectStore, prefix: str, token: str | None, *, delimiter: bool
) -> AsyncIterator[tuple[str, Described | None]]:
    """Objects whose key starts with `prefix`, and folded folders (with None), in order, behind `token`.

    Every key and folder that comes out will do as `token`.

    Raises:
        BadRequest: No listing gave this token.
    """
    parent = prefix.rpartition("/")[0]
    if not may_begin_keys(prefix) or ("/" in prefix and not is_key(parent)):
        return
    if token and not is_key(token.removesuffix("/")):
        raise BadRequest(f"{token[:80]!r} is no token of a listing", hint="begin the listing anew")
    start = just_before(prefix)
    folded = token if token and token.endswith("/") else ""
    after: str | None = max(start, folded + LAST if folded else token or "")
    while after is not None:
        walking, after, skipped = _objects(client, parent, after), None, 0
        async for found in walking:
            key = found["path"]
            if not key.startswith(prefix):
                if start and key > prefix:
                    return
                continue
            folder = fold(key, prefix) if delimiter else ""
            if not folder:
                yield key, found
            elif folder != folded:
                folded, skipped = folder, 0
                yield folder, None
            else:
                skipped += 1
                if skipped >= BATCH:
                    after = folded + LAST
                    break


def fold(key: str, prefix: str) -> str:
    """The key up to and with the next `/` behind the prefix, or nothing where there is none."""
    slash = key.find("/", len(prefix))
    return key[: slash + 1]


def just_before(prefix: str) -> str:
    """The last possible key that sorts before all keys with this prefix; empty where that can't be written down."""
    if not prefix or prefix.endswith("/"):
        return ""
    code = ord(prefix[-1]) - 1
    if code in SURROGATES:
        code = SURROGATES.start - 1
    last = "." if chr(code) == "/" else chr(code)
    candidate = prefix[:-1] + last + LAST
    return candidate if is_key(candidate) else ""


async def _objects(client: ObjectStore, folder: str, after: str) -> AsyncIterator[Described]:
    """What obstore lists, without markers of folders."""
    held: Described | None = None
    async for batch in obstore.list(client, folder or None, offset=after or None, chunk_size=BATCH):
        for found in batch:
            if found["path"] <= after:  # Azurite, for one, knows no start
                continue
            if held and not (held["size"] == 0 and found["path"].startswith(held["path"] + "/")):
                yield held
            held = found
    if held:
        yield held
