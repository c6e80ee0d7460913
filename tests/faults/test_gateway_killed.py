"""SIGKILL to gateways in the middle of things, and a look at what the next one serves. Cases 20 and 25."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from gateway_process import alive, eventually
from readers import Reader, answered, curl, start_curl
from servers_faulty import Fault
from shards import random_bytes, shard

from shardgate import WDTransform
from shardgate.capture import capture

SIZE = 4_000_000


def reverse(sample):
    sample["bin"] = sample["bin"][::-1]
    return sample


def test_a_half_filled_object_is_continued_after_the_restart_not_served(start_gateway, origin, key):
    data = random_bytes(SIZE)
    origin.put(key, data)
    origin.fail(key, Fault(after=SIZE // 2, ending="stall"))
    gateway = start_gateway({"http://b": origin.url}, settings={"upstream.progress_timeout": 30})
    reader = Reader(gateway.url("http://b", key))
    eventually(lambda: len(reader.body) == SIZE // 2, what="the first half")
    gateway.kill()
    assert reader.finish().whole is False
    origin.heal(key)
    gateway.start()
    answer = curl(gateway.url("http://b", key))
    assert (answer.exit, answer.body) == (0, data)


def test_a_half_filled_object_that_was_overwritten_while_the_gateway_was_down_starts_anew(start_gateway, origin, key):
    old, new = random_bytes(SIZE, 1), random_bytes(SIZE, 2)
    origin.put(key, old, etag="old")
    origin.fail(key, Fault(after=SIZE // 2, ending="stall"))
    gateway = start_gateway({"http://b": origin.url}, settings={"upstream.progress_timeout": 30})
    reader = Reader(gateway.url("http://b", key))
    eventually(lambda: len(reader.body) == SIZE // 2, what="the first half")
    gateway.kill()
    reader.finish()
    origin.put(key, new, etag="new")
    origin.heal(key)
    gateway.start()
    answer = curl(gateway.url("http://b", key))
    assert (answer.exit, answer.body) == (0, new)


def test_a_put_that_was_cut_by_the_kill_leaves_the_old_object(start_gateway, folder):
    old, new = random_bytes(SIZE, 1), random_bytes(SIZE, 2)
    gateway = start_gateway({"file://b": folder})
    url = gateway.url("file://b", "a.bin")
    gateway.client.put("file://b", "a.bin", old)
    assert curl(url).body == old
    (folder.parent / "new").write_bytes(new)
    upload = start_curl(url, "-T", str(folder.parent / "new"), "--limit-rate", "2M")
    eventually(lambda: any(path.stat().st_size for path in folder.rglob("*") if path.name != "a.bin"))
    assert upload.poll() is None, "the upload is under way"
    gateway.kill()
    assert answered(upload).exit != 0
    gateway.start()
    assert curl(url).body == old
    assert [entry.name for entry in gateway.client.list("file://b")] == ["a.bin"], "the part file is no object"


def test_transforms_and_their_names_outlive_a_kill_in_the_middle_of_a_shard(start_gateway, folder):
    (folder / "a.tar").write_bytes(shard(300))
    gateway = start_gateway({"file://b": folder})
    etl = WDTransform(gateway.client, reverse, "reverse", "", cache="never")
    by_id, by_name = (gateway.url("file://b", "a.tar", transform_id=name) for name in (etl.uuid, "reverse"))
    expected = curl(by_id)
    assert expected.exit == 0
    slow = start_curl(by_id, "--limit-rate", "500K")
    time.sleep(0.3)
    gateway.kill()
    cut = answered(slow)
    assert cut.exit != 0
    assert expected.body.startswith(cut.body)
    gateway.start()
    for url in (by_id, by_name):
        again = curl(url)
        assert (again.exit, again.body) == (0, expected.body)
    assert curl(by_id).headers["etag"] == expected.headers["etag"]


def test_followers_of_a_fill_finish_when_the_worker_process_that_fills_is_killed(start_gateway, origin, key):
    data = random_bytes(SIZE)
    origin.put(key, data)
    origin.fail(key, Fault(after=SIZE // 2, ending="stall"))
    gateway = start_gateway({"http://b": origin.url}, workers=3, settings={"upstream.progress_timeout": 30})
    url = gateway.url("http://b", key)
    readers: list[Reader] = []
    while len({gateway.worker_of(reader.port) for reader in readers}) < 3:
        assert len(readers) < 200, "one worker process gets all connections"
        readers.append(Reader(url))
        time.sleep(0.01)
    eventually(lambda: all(len(reader.body) == SIZE // 2 for reader in readers), what="the first half for all")
    assert len(origin.gets(key)) == 1
    filler = gateway.filler()
    assert filler in gateway.workers()
    of_the_filler = [reader for reader in readers if gateway.worker_of(reader.port) == filler]
    os.kill(filler, signal.SIGKILL)
    for reader in readers:
        reader.finish()
        assert reader.whole is (reader not in of_the_filler)
        assert not reader.whole or reader.body == data
    assert origin.bytes_sent(key) == SIZE, "the heir fetched the rest, and only that"
    assert curl(url).body == data
    eventually(lambda: len(gateway.workers()) == 3, what="the replacement of the killed worker process")


def test_a_runtime_whose_gateway_dies_while_it_starts_is_no_orphan(start_gateway, folder):
    """It is held before it could ask the kernel to end it with its parent."""
    (folder / "a.tar").write_bytes(shard(10))
    gateway = start_gateway({"file://b": folder})
    _, package = capture(reverse, kind="sample", name="reverse", decoder="")
    uuid = gateway.client.transforms.register(package)["id"]
    reader = start_curl(gateway.url("file://b", "a.tar", transform_id=uuid))
    (runtime,) = eventually(gateway.runtimes, what="a starting runtime")
    os.kill(runtime, signal.SIGSTOP)
    for pid in (gateway.tree()[0], *gateway.workers()):
        os.kill(pid, signal.SIGKILL)
    assert answered(reader).exit != 0
    os.kill(runtime, signal.SIGCONT)
    eventually(lambda: not alive(runtime), what="the end of the runtime")


# Six gateways are started, attacked and killed one after the other.
@pytest.mark.slow
def test_nothing_wrong_is_served_after_kills_at_random_moments(start_gateway, folder):
    """Readers, writers and a transform at work; SIGKILL to all; every object is then one of its versions, whole."""
    dice = random.Random(20)
    names = [f"{index}.tar" for index in range(6)]
    versions = {name: [shard(60, seed=index)] for index, name in enumerate(names)}
    for name in names:
        (folder / name).write_bytes(versions[name][0])
    settings = {"cache.part_bytes": 1 << 18, "cache.parallel_from_bytes": 1 << 19, "cache.memory_object_bytes": 0}
    gateway = start_gateway({"file://b": {"where": str(folder), "freshness": "always"}}, workers=2, settings=settings)
    etl = WDTransform(gateway.client, reverse, "reverse", "", cache="always")
    for round_number in range(5):
        work = [start_curl(gateway.url("file://b", dice.choice(names)), "--limit-rate", "20M") for _ in range(6)]
        work += [start_curl(gateway.url("file://b", dice.choice(names), transform_id=etl.uuid)) for _ in range(2)]
        written = dice.choice(names)
        new = shard(60, seed=100 + round_number)
        (folder.parent / "new").write_bytes(new)
        work.append(start_curl(gateway.url("file://b", written), "-T", str(folder.parent / "new")))
        time.sleep(dice.uniform(0, 0.4))
        gateway.kill()
        for process in work:
            answered(process)
        versions[written].append(new)
        gateway.start()
        for name in names:
            answer = curl(gateway.url("file://b", name))
            assert answer.exit == 0
            assert answer.body in versions[name]
            assert answer.body == (folder / name).read_bytes()
            versions[name] = [answer.body]
    for name in names:
        result = curl(gateway.url("file://b", name, transform_id=etl.uuid))
        assert (result.exit, result.status) == (0, 200)
        assert result.body == curl(gateway.url("file://b", name, transform_id=etl.uuid, seed=0)).body
