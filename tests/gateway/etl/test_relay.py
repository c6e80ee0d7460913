"""The relay with real runtimes: what a reader gets, whatever happens to the workers."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import tarfile
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from etl import Etl, collect, etl_in, eventually, pid_exists
from shards import shard

from shardgate_gateway.errors import Busy, SampleError, TransformError, TransformStartError
from shardgate_gateway.etl.line import PLACE, Place


def noisy(sample: dict[str, Any]) -> dict[str, Any]:
    """Depends on every seed there is, so that a sample which is run again shows whether it was seeded the same."""
    import random
    import time

    import numpy as np

    time.sleep(0.001)
    noise = bytes(np.random.randint(0, 256, 5000, dtype=np.uint8))  # noqa: NPY002 (the runtime seeds it)
    return {"__key__": sample["__key__"], "bin": sample["bin"] + noise, "txt": str(random.random())}


def quick(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def members(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def kill(pid: int) -> None:
    if pid_exists(pid):
        os.kill(pid, signal.SIGKILL)


async def test_a_shard_comes_back_transformed_sample_by_sample(etl: Etl) -> None:
    etl.put("a.tar", shard(20))
    record = await etl.register(noisy, name="noisy")
    result = members(await etl.read(record, "a.tar"))
    assert len(result) == 40
    raw = members(shard(20))
    assert result["000007.bin"][:20_000] == raw["000007.bin"]


async def test_same_request_same_bytes_and_another_epoch_other_bytes(etl: Etl) -> None:
    etl.put("a.tar", shard(10))
    record = await etl.register(noisy, name="noisy")
    first = await etl.read(record, "a.tar", seed=3, epoch=1)
    assert await etl.read(record, "a.tar", seed=3, epoch=1) == first
    assert await etl.read(record, "a.tar", seed=3, epoch=2) != first
    assert await etl.read(record, "a.tar", seed=4, epoch=1) != first


async def test_any_suffix_can_be_asked_for(etl: Etl) -> None:
    etl.put("a.tar", shard(10))
    record = await etl.register(noisy, name="noisy")
    whole = await etl.read(record, "a.tar")
    for skip in (0, 1, 511, 512, 30_000, 200_001, len(whole) - 1, len(whole)):
        assert await etl.read(record, "a.tar", skip=skip) == whole[skip:]


async def test_a_shard_survives_workers_killed_at_random_moments(etl: Etl) -> None:
    etl.put("a.tar", shard(200, size=6_000))
    record = await etl.register(noisy, name="noisy")
    whole = await etl.read(record, "a.tar")
    dice = random.Random(7)
    kills = 0
    for _ in range(12):
        got = bytearray()
        until = dice.randrange(len(whole) // 4)
        async with etl.request(record, "a.tar") as request, aclosing(etl.relay.stream(request)) as chunks:
            async for chunk in chunks:
                got += chunk
                if len(got) >= until:  # progress since the last kill, so no sample is ever blamed twice
                    until = len(got) + dice.randrange(1, len(whole) // 3)
                    await asyncio.sleep(dice.random() * 0.02)
                    for pid in etl.worker_pids(record):
                        kill(pid)
                        kills += 1
        assert got == whole
    assert kills > 12
    assert (await etl.registry.stats(record.id)).lost > 6


async def test_a_shard_survives_the_death_of_the_whole_runtime(etl: Etl) -> None:
    etl.put("a.tar", shard(100, size=6_000))
    record = await etl.register(noisy, name="noisy")
    whole = await etl.read(record, "a.tar")
    got = bytearray()
    killed = False
    async with etl.request(record, "a.tar") as request, aclosing(etl.relay.stream(request)) as chunks:
        async for chunk in chunks:
            got += chunk
            if not killed and len(got) > len(whole) // 3:
                killed = True
                kill(etl.runtime_pid(record))
    assert killed
    assert got == whole


async def test_workers_die_with_their_runtime(etl: Etl) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(noisy, name="noisy")
    await etl.read(record, "a.tar")
    pids = etl.worker_pids(record)
    assert len(pids) == 2
    kill(etl.runtime_pid(record))
    await eventually(lambda: not any(map(pid_exists, pids)))


def fails_on_three(sample: dict[str, Any]) -> dict[str, Any]:
    if sample["__key__"] == "000003":
        raise ValueError("this one is bad")
    return sample


async def test_a_failing_sample_is_named_with_its_traceback(etl: Etl) -> None:
    etl.put("a.tar", shard(6))
    record = await etl.register(fails_on_three, name="failing")
    got = bytearray()
    async with etl.request(record, "a.tar") as request, aclosing(etl.relay.stream(request)) as chunks:
        with pytest.raises(SampleError) as raised:  # noqa: PT012 (what came before it counts, too)
            while True:
                got += await anext(chunks)
    error = raised.value
    assert (error.sample, error.key) == (3, "000003")
    assert "this one is bad" in error.message
    assert "fails_on_three" in error.traceback
    assert b"000002.bin" in got
    assert b"000004.bin" not in got
    assert (await etl.registry.stats(record.id)).failed == 1


async def test_a_failing_sample_is_left_out_counted_and_logged_where_the_policy_says_so(etl: Etl) -> None:
    etl.put("a.tar", shard(6))
    record = await etl.register(fails_on_three, name="failing", on_error="skip")
    result = members(await etl.read(record, "a.tar"))
    assert sorted({name[:6] for name in result}) == ["000000", "000001", "000002", "000004", "000005"]
    stats = await etl.registry.stats(record.id)
    assert (stats.work.samples_in, stats.work.samples_out, stats.work.samples_skipped) == (6, 5, 1)
    assert "this one is bad" in await etl.runner.logs(record.id, tail=100)


def segfaults_on_three(sample: dict[str, Any]) -> dict[str, Any]:
    import ctypes

    if sample["__key__"] == "000003":
        ctypes.string_at(0)
    return sample


def eats_memory_on_three(sample: dict[str, Any]) -> dict[str, Any]:
    import os
    import signal

    if sample["__key__"] == "000003":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does it
    return sample


def hangs_on_three(sample: dict[str, Any]) -> dict[str, Any]:
    import signal
    import time

    if sample["__key__"] == "000003":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # like C code that never comes back
        time.sleep(1000)
    return sample


DEADLY = [
    pytest.param(segfaults_on_three, "SIGSEGV", id="segfault"),
    pytest.param(eats_memory_on_three, "out of memory", id="out-of-memory"),
    pytest.param(hangs_on_three, "timeout", id="hang"),
]


@pytest.mark.parametrize(("function", "cause"), DEADLY)
async def test_a_sample_that_kills_its_worker_is_named(etl: Etl, function: Any, cause: str) -> None:
    etl.put("a.tar", shard(6))
    record = await etl.register(function, name="deadly", sample_timeout=0.3)
    with pytest.raises(SampleError) as raised:
        await etl.read(record, "a.tar")
    assert (raised.value.sample, raised.value.key) == (3, "000003")
    assert cause in raised.value.message


@pytest.mark.parametrize(("function", "cause"), DEADLY)
async def test_a_sample_that_kills_its_worker_is_left_out_where_the_policy_says_so(
    etl: Etl, function: Any, cause: str
) -> None:
    etl.put("a.tar", shard(6))
    record = await etl.register(function, name="deadly", sample_timeout=0.3, on_error="skip")
    result = members(await etl.read(record, "a.tar"))
    assert sorted({name[:6] for name in result}) == ["000000", "000001", "000002", "000004", "000005"]
    assert (await etl.registry.stats(record.id)).lost >= 1


async def test_a_sample_that_never_ends_is_named_even_without_a_timeout_of_its_own(tmp_path: Path) -> None:
    def waits(sample: dict[str, Any]) -> dict[str, Any]:
        import time

        time.sleep(1000)
        return sample

    async with etl_in(tmp_path, progress_timeout=0.3) as etl:
        etl.put("a.tar", shard(2))
        record = await etl.register(waits, name="waits")
        for _ in range(3):  # more than there are workers: none of them is stuck
            with pytest.raises(SampleError, match=r"sample timeout after 0\.3 s") as raised:
                await etl.read(record, "a.tar")
            assert raised.value.key == "000000"


async def test_a_reader_that_leaves_stops_the_work_within_a_sample(etl: Etl, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.touch()

    def counted(sample: dict[str, Any], path: str = str(calls)) -> dict[str, Any]:
        import time

        with Path(path).open("a") as file:
            file.write("x")
        time.sleep(0.05)
        return sample

    etl.put("a.tar", shard(200, size=100))
    record = await etl.register(counted, name="counted")
    async with etl.request(record, "a.tar") as request, aclosing(etl.relay.stream(request)) as chunks:
        await anext(chunks)
    left_at = calls.stat().st_size

    async def free() -> int:
        """When both workers took new jobs, the one that was left has finished with its sample."""
        etl.put("b.tar", shard(1, size=100))
        await asyncio.gather(etl.read(record, "b.tar"), etl.read(record, "b.tar"))
        return calls.stat().st_size

    assert await free() - left_at <= 2 + 2
    assert (await etl.registry.stats(record.id)).abandoned == 1


async def test_two_shards_read_in_turn_by_one_thread_share_one_worker(tmp_path: Path) -> None:
    async with etl_in(tmp_path, workers=1, release_seconds=0.1, ring_bytes=1 << 20) as etl:
        for key in ("a.tar", "b.tar"):
            etl.put(key, shard(80, size=50_000, seed=ord(key[0])))
        record = await etl.register(noisy, name="noisy")
        whole = {key: await etl.read(record, key) for key in ("a.tar", "b.tar")}
        got = {key: bytearray() for key in whole}
        async with etl.request(record, "a.tar") as a, etl.request(record, "b.tar") as b:
            streams = {"a.tar": etl.relay.stream(a), "b.tar": etl.relay.stream(b)}
            while streams:
                for key, stream in list(streams.items()):
                    while len(got[key]) < (
                        len(whole[key]) if len(streams) == 1 else len(min(got.values(), key=len)) + 600_000
                    ):
                        chunk = await anext(stream, None)
                        if chunk is None:
                            break
                        got[key] += chunk
                    if len(got[key]) == len(whole[key]):
                        assert await anext(stream, None) is None
                        del streams[key]
        assert got == whole
        assert (await etl.registry.stats(record.id)).released >= 1


async def test_a_paused_reader_keeps_its_chunk_unchanged_while_others_use_the_worker(tmp_path: Path) -> None:
    async with etl_in(tmp_path, workers=1, release_seconds=0.05, ring_bytes=1 << 20) as etl:
        etl.put("a.tar", shard(80, size=50_000, seed=1))
        etl.put("b.tar", shard(80, size=50_000, seed=2))
        record = await etl.register(quick, name="quick")
        whole = await etl.read(record, "a.tar")
        got = bytearray()
        async with etl.request(record, "a.tar") as request, aclosing(etl.relay.stream(request)) as chunks:
            async for chunk in chunks:
                if len(got) < 1_500_000:
                    await etl.read(record, "b.tar")  # waits for the release, then overwrites the ring several times
                got += chunk
        assert got == whole


async def test_requests_beyond_the_queue_are_refused_with_a_time(tmp_path: Path) -> None:
    async with etl_in(tmp_path, workers=1, max_waiting=2) as etl:
        etl.put("a.tar", shard(50, size=50_000))
        record = await etl.register(noisy, name="noisy")
        async with etl.request(record, "a.tar") as request, aclosing(etl.relay.stream(request)) as chunks:
            await anext(chunks)
            waiting = [asyncio.create_task(collect(etl.relay, request)) for _ in range(2)]
            await eventually(lambda: etl.runner._runtime(record.id).waiting == 2)
            with pytest.raises(Busy) as raised:
                await collect(etl.relay, request)
            assert raised.value.retry_after
        first, second = await asyncio.gather(*waiting)
        assert first == second


async def test_a_request_that_a_worker_is_held_for_is_never_one_too_many(tmp_path: Path) -> None:
    async with etl_in(tmp_path, workers=1, max_waiting=1) as etl:
        etl.put("a.tar", shard(5))
        record = await etl.register(noisy, name="noisy")
        async with etl.request(record, "a.tar") as request:
            with etl.runner.waiting(record), pytest.raises(Busy):
                await collect(etl.relay, request)
            PLACE.set(Place(1.0, 0, 30.0, "s-0"))
            with etl.runner.waiting(record):
                assert await collect(etl.relay, request)


async def test_a_reader_that_stops_waiting_leaves_the_queue(tmp_path: Path) -> None:
    async with etl_in(tmp_path, workers=1) as etl:
        etl.put("a.tar", shard(50, size=50_000))
        record = await etl.register(noisy, name="noisy")
        async with etl.request(record, "a.tar") as request, aclosing(etl.relay.stream(request)) as chunks:
            await anext(chunks)
            waiting = asyncio.create_task(collect(etl.relay, request))
            await eventually(lambda: etl.runner._runtime(record.id).waiting == 1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert etl.runner._runtime(record.id).waiting == 0
        assert await etl.read(record, "a.tar")


async def test_bytes_transforms_get_the_object_whole(etl: Etl) -> None:
    etl.put("text", b"hello")
    record = await etl.register(lambda data: data.upper() * 3, name="upper", kind="bytes")
    assert await etl.read(record, "text") == b"HELLOHELLOHELLO"


async def test_a_shard_that_is_no_tar_is_an_error_that_says_so(etl: Etl) -> None:
    etl.put("a.tar", b"this is not a tar, but it is long enough to look for a header" * 100)
    record = await etl.register(quick, name="quick")
    with pytest.raises(TransformError, match=r"gcp://shards/a\.tar: ") as raised:
        await etl.read(record, "a.tar")
    assert "tar -tf" in raised.value.hint


async def test_start_errors_reach_every_reader_and_start_once(etl: Etl, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    starts.touch()

    class Broken:
        def __init__(self, path: str = str(starts)) -> None:
            with Path(path).open("a") as file:
                file.write("x")
            raise RuntimeError("no weights here")

        def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
            return sample

    etl.put("a.tar", shard(1))
    record = await etl.register(Broken, name="broken")
    results = await asyncio.gather(*(etl.read(record, "a.tar") for _ in range(8)), return_exceptions=True)
    assert {type(result) for result in results} == {TransformStartError}
    assert all("no weights here" in str(result) for result in results)
    assert starts.stat().st_size <= 2  # one for each worker of one start
