"""What the conformance tests of the stores don't say of the store in the database."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, func, select, update

from shardgate_gateway.errors import GenerationChanged, LocalStorageError, NotFound
from shardgate_gateway.state import payloads as payloads_module
from shardgate_gateway.state.payloads import CHUNK_BYTES, Payloads
from shardgate_gateway.state.tables import ChunkRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.orm import Session

    from shardgate_gateway.state.database import Database
    from shardgate_gateway.state.tables import PayloadRow


@pytest.fixture
def payloads(database: Database) -> Payloads:
    return Payloads(database, label="state://payloads")


async def body(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def read(payloads: Payloads, key: str) -> bytes:
    stream = await payloads.get(key)
    try:
        return b"".join([bytes(chunk) async for chunk in stream.chunks])
    finally:
        await stream.aclose()


async def rows(database: Database) -> int:
    return await database.read(lambda session: session.scalar(select(func.count()).select_from(ChunkRow))) or 0


async def test_a_body_is_cut_into_rows_whatever_pieces_it_came_in(database: Database, payloads: Payloads) -> None:
    data = os.urandom(2 * CHUNK_BYTES + 5)
    await payloads.put("a", body(data[:7], data[7 : CHUNK_BYTES + 1], data[CHUNK_BYTES + 1 :]))
    assert await rows(database) == 3
    assert await read(payloads, "a") == data
    await payloads.put("a", body(b"short"))
    assert await rows(database) == 1
    await payloads.delete("a")
    assert await rows(database) == 0


async def test_a_version_that_is_replaced_under_its_reader_is_never_mixed_with_the_next(payloads: Payloads) -> None:
    old, new = bytes(2 * CHUNK_BYTES), b"n" * 2 * CHUNK_BYTES
    await payloads.put("a", body(old))
    stream = await payloads.get("a")
    first = await anext(aiter(stream.chunks))
    await payloads.put("a", body(new))
    with pytest.raises(GenerationChanged, match="replaced"):
        async for _ in stream.chunks:
            pass
    await stream.aclose()
    assert first == old[:CHUNK_BYTES]


async def test_writers_of_one_key_leave_one_of_them_whole(database: Database, payloads: Payloads) -> None:
    bodies = [bytes([number]) * (CHUNK_BYTES + number) for number in range(1, 9)]
    await asyncio.gather(*(payloads.put("a", body(data)) for data in bodies))
    assert await read(payloads, "a") in bodies
    assert await rows(database) == 2


WRITES = """
import asyncio, sys
from shardgate_gateway.state.database import Database
from shardgate_gateway.state.payloads import CHUNK_BYTES, Payloads

async def endless():
    while True:
        yield bytes(CHUNK_BYTES)
        print("row", flush=True)

asyncio.run(Payloads(Database(sys.argv[1]), label="x").put("a", endless()))
"""


async def test_a_writer_that_is_killed_leaves_nothing_that_can_be_read_and_is_cleaned_up_after(
    url: str, database: Database, payloads: Payloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITES, url], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with pytest.raises(NotFound):
        await payloads.get("a")
    left = await rows(database)
    assert left >= 2
    await payloads.put("b", body(b"b"))
    assert await rows(database) == left + 1  # it may still be at work
    past = datetime.now(UTC) - timedelta(seconds=payloads_module.ABANDONED_SECONDS + 1)
    await database.write(lambda session: session.execute(update(ChunkRow).values(written_at=past)))
    await payloads.put("c", body(b"c"))
    assert await rows(database) == 2
    assert (await read(payloads, "b"), await read(payloads, "c")) == (b"b", b"c")


async def test_a_large_body_never_lies_whole_in_memory(payloads: Payloads) -> None:
    count = 128

    async def large() -> AsyncIterator[bytes]:
        for number in range(count):
            yield bytes([number % 251]) * CHUNK_BYTES

    before = _peak()
    await payloads.put("large", large())
    stream = await payloads.get("large")
    number = 0
    async for chunk in stream.chunks:
        assert chunk == bytes([number % 251]) * CHUNK_BYTES
        number += 1
    await stream.aclose()
    assert number == count
    assert _peak() - before < 64 << 20


def _peak() -> int:
    """Peak resident bytes of this process."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("committed", [True, False])
async def test_a_writer_that_is_cancelled_while_it_publishes_leaves_the_whole_body_or_none(
    database: Database, payloads: Payloads, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    publishing, go_on = threading.Event(), threading.Event()
    publish = payloads_module._publish

    def slow(session: Session, row: PayloadRow) -> None:
        publishing.set()
        assert go_on.wait(60)
        if not committed:
            raise LocalStorageError("the database went away")
        publish(session, row)

    monkeypatch.setattr(payloads_module, "_publish", slow)
    data = os.urandom(CHUNK_BYTES + 5)
    writer = asyncio.create_task(payloads.put("a", body(data)))
    assert await asyncio.to_thread(publishing.wait, 60)
    writer.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writer
    if committed:
        assert await read(payloads, "a") == data
    else:
        with pytest.raises(NotFound):
            await payloads.head("a")
        monkeypatch.setattr(payloads_module, "_publish", publish)
        await payloads.put("a", body(data))
        assert await read(payloads, "a") == data


async def test_an_answer_to_commit_that_is_lost_costs_no_bytes(
    database: Database, payloads: Payloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = database.write

    async def lossy(function: Callable[[Session], Any]) -> Any:
        answer = await write(function)
        if "_publish" in function.__code__.co_names:
            raise LocalStorageError("the connection was lost")
        return answer

    monkeypatch.setattr(database, "write", lossy)
    data = os.urandom(CHUNK_BYTES + 5)
    with pytest.raises(LocalStorageError):
        await payloads.put("a", body(data))
    assert await read(payloads, "a") == data


async def test_a_key_without_its_bytes_does_not_exist_until_it_is_stored_again(
    database: Database, payloads: Payloads
) -> None:
    """An older gateway may have left one, for good: an environment is not stored again while there is one."""
    data = os.urandom(2 * CHUNK_BYTES)
    await payloads.put("a", body(data))
    await database.write(lambda session: session.execute(delete(ChunkRow).where(ChunkRow.number == 1)))
    for ask in (payloads.head, payloads.get):
        with pytest.raises(NotFound):
            await ask("a")
    await payloads.put("a", body(data))
    assert await read(payloads, "a") == data


async def test_a_body_whose_rows_were_removed_meanwhile_is_not_published(
    database: Database, payloads: Payloads
) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield bytes(CHUNK_BYTES)
        assert await rows(database) == 1
        await database.write(lambda session: session.execute(delete(ChunkRow)))
        yield b"rest"

    with pytest.raises(LocalStorageError, match="were removed"):
        await payloads.put("a", slow())
    with pytest.raises(NotFound):
        await payloads.head("a")
