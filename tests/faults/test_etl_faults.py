"""User code that fails, dies, hangs and hoards, workers that are killed, and stores that break under a transform.

The reader gets the exact bytes, or an end that curl and webdataset take for a failure. Cases 26, 27, 28 and 30.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import tempfile
import time
from collections import deque
from pathlib import Path

import pytest
from gateway_process import eventually
from readers import Reader, answered, curl, start_curl, webdataset_samples
from servers_faulty import Fault
from shards import shard

from shardgate import BytesTransform, Client, TransformFailed, WDTransform

SAMPLES = 60
BAD = 30
MEMORY = 256 << 20


def mirror(sample):
    sample["bin"] = sample["bin"][::-1]
    sample["dice"] = repr(random.random()).encode()
    return sample


def go_wrong(how):
    """What a sample can do to the process that runs it."""
    if how == "raise":
        raise ValueError("this picture has no picture in it")
    if how == "segfault":
        ctypes.string_at(0)
    if how == "leave":
        os._exit(0)
    if how == "sleep":
        time.sleep(3600)
    if how == "never come back to Python":
        sum(range(10**15))
    hoard = []
    while how == "hoard":
        hoard.append(bytes(64 << 20))


def go_wrong_at_bad(sample, args):
    if sample["__key__"] == f"{BAD:06d}":
        go_wrong(args)
    return mirror(sample)


def raise_at_once(sample):
    raise ValueError("no sample pleases me")


FAILURES = {
    "raise": "this picture has no picture in it",
    "segfault": "SIGSEGV",
    "leave": "exit code 0",
    "sleep": "timeout after 1 s",
    "never come back to Python": "timeout after 1 s",
    "hoard": "MemoryError",
}
"""Ways to go wrong, and what the log has to say of each."""


@pytest.fixture(scope="module")
def bucket_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket")
    (folder / "a.tar").write_bytes(shard(SAMPLES))
    (folder / "long.tar").write_bytes(shard(500, seed=1))
    return folder


@pytest.fixture(scope="module")
def gateway(start_shared_gateway, bucket_folder, origin):
    settings = {"etl.memory_bytes": MEMORY, "etl.ring_bytes": 1 << 20, "etl.idle_seconds": 15}
    return start_shared_gateway({"file://b": bucket_folder, "http://web": origin.url}, settings=settings)


@pytest.fixture(scope="module")
def failing(gateway):
    """One transform for each policy."""

    def start(policy):
        return WDTransform(gateway.client, go_wrong_at_bad, policy, "", on_error=policy, sample_timeout=1)

    return {policy: start(policy) for policy in ("fail", "skip", "warn")}


def said_of_the_bad_sample(etl) -> str:
    return "\n".join(line for line in etl.logs().splitlines() if f"{BAD:06d}" in line and "a.tar" in line)


def keys_of(url: str) -> list[str]:
    return [sample["__key__"] for sample in webdataset_samples(url)]


@pytest.mark.parametrize(("how", "cause"), FAILURES.items())
def test_a_function_that_fails_on_one_sample_breaks_the_shard_off_and_is_named(gateway, failing, how, cause):
    answer = curl(gateway.url("file://b", "a.tar", transform_id=failing["fail"].uuid, args=how))
    assert answer.exit != 0 or answer.status >= 400
    assert cause in said_of_the_bad_sample(failing["fail"])
    assert cause in gateway.said, "the gateway's log says why it broke off"


@pytest.mark.parametrize("policy", ["skip", "warn"])
@pytest.mark.parametrize(("how", "cause"), FAILURES.items())
def test_a_function_that_fails_on_one_sample_leaves_out_that_one_where_the_policy_says_so(
    gateway, failing, how, cause, policy
):
    url = gateway.url("file://b", "a.tar", transform_id=failing[policy].uuid, args=how)
    assert keys_of(url) == [f"{index:06d}" for index in range(SAMPLES) if index != BAD]
    answer = curl(url)
    assert (answer.exit, answer.status) == (0, 200), "also when it is read again"
    assert cause in said_of_the_bad_sample(failing[policy])


def test_samples_that_were_left_out_are_counted(gateway, failing):
    before = failing["skip"].stats()["samples_skipped"]
    curl(gateway.url("file://b", "a.tar", transform_id=failing["skip"].uuid, args="raise", epoch=1))
    eventually(lambda: failing["skip"].stats()["samples_skipped"] == before + 1, what="the count")


def test_webdataset_raises_when_a_function_fails_on_one_sample(gateway, failing):
    samples = webdataset_samples(gateway.url("file://b", "a.tar", transform_id=failing["fail"].uuid, args="raise"))
    with pytest.raises(TransformFailed, match=f"this picture has no picture in it .sample {BAD}"):
        deque(samples, 0)


def test_a_function_that_fails_before_any_byte_went_out_is_told_as_json(gateway):
    etl = WDTransform(gateway.client, raise_at_once, "fails-at-once", "", on_error="fail")
    answer = curl(gateway.url("file://b", "a.tar", transform_id=etl.uuid))
    problem = json.loads(answer.body)
    assert answer.status == 422
    assert problem["code"] == "sample_failed"
    for name in ("no sample pleases me", "000000", "a.tar"):
        assert name in problem["message"]


def test_workers_killed_in_the_middle_of_a_shard_cost_the_reader_a_pause(gateway):
    etl = WDTransform(gateway.client, mirror, "mirror", "", cache="never")
    url = gateway.url("file://b", "long.tar", transform_id=etl.uuid)
    expected = curl(url)
    assert (expected.exit, expected.status) == (0, 200)
    running = start_curl(url, "--limit-rate", "4M")
    kills = 0
    while running.poll() is None and kills < 8:
        for pid in gateway.etl_workers():
            os.kill(pid, signal.SIGKILL)
            kills += 1
        time.sleep(0.4)
    answer = answered(running)
    assert kills >= 4
    assert (answer.exit, answer.status) == (0, 200)
    assert answer.body == expected.body


def test_the_parent_of_the_workers_killed_in_the_middle_of_a_shard_costs_the_reader_a_pause(gateway):
    etl = WDTransform(gateway.client, mirror, "mirror", "", cache="never")
    url = gateway.url("file://b", "long.tar", transform_id=etl.uuid)
    expected = curl(url)
    running = start_curl(url, "--limit-rate", "4M")
    time.sleep(0.5)
    for pid in gateway.runtimes():
        os.kill(pid, signal.SIGKILL)
    answer = answered(running)
    assert (answer.exit, answer.status) == (0, 200)
    assert answer.body == expected.body


def test_a_runtime_that_is_killed_while_it_starts_is_started_again(gateway):
    etl = WDTransform(gateway.client, mirror, "mirror", "", cache="never")
    url = gateway.url("file://b", "a.tar", transform_id=etl.uuid)
    expected = curl(url)
    for pid in gateway.runtimes():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not gateway.runtimes(), what="the end of all runtimes")
    running = start_curl(url)
    (starting,) = eventually(gateway.runtimes, what="another runtime")
    os.kill(starting, signal.SIGKILL)
    answer = answered(running)
    assert (answer.exit, answer.status, answer.body) == (0, 200, expected.body)


def first(sample):
    sample["bin"] = b"first"
    return sample


def second(sample):
    sample["bin"] = b"second"
    return sample


def test_new_code_under_an_old_name_never_serves_what_the_old_code_made(gateway):
    old = WDTransform(gateway.client, first, "moving", "", cache="always")
    by_name = gateway.url("file://b", "a.tar", transform_id="moving")
    etag = curl(by_name).headers["etag"]
    assert {sample["bin"] for sample in webdataset_samples(by_name)} == {b"first"}
    new = WDTransform(gateway.client, second, "moving", "", cache="always")
    assert new.uuid != old.uuid
    assert {sample["bin"] for sample in webdataset_samples(by_name)} == {b"second"}
    assert curl(by_name, "-H", f"If-None-Match: {etag}").status == 200
    assert curl(by_name, "-H", f"If-Match: {etag}").status == 412
    by_id = gateway.url("file://b", "a.tar", transform_id=old.uuid)
    assert {sample["bin"] for sample in webdataset_samples(by_id)} == {b"first"}


def test_a_kept_result_is_an_object_like_any_other_and_equals_the_streamed_one(gateway):
    streamed = WDTransform(gateway.client, first, "kept", "", cache="never")
    url = gateway.url("file://b", "a.tar", transform_id=streamed.uuid)
    expected = curl(url)
    kept = WDTransform(gateway.client, first, "kept", "", cache="always")
    assert kept.uuid == streamed.uuid
    for state in ("miss", "hit"):
        answer = curl(url)
        assert (answer.exit, answer.status, answer.body) == (0, 200, expected.body)
        assert answer.headers["x-shardgate-cache"] == state
        assert answer.headers["etag"] == expected.headers["etag"]
    head = curl(url, "-I")
    assert int(head.headers["content-length"]) == len(expected.body)
    assert head.headers["etag"] == expected.headers["etag"]
    part = curl(url, "-H", "Range: bytes=700-1699")
    assert (part.status, part.body) == (206, expected.body[700:1700])
    assert curl(url, "-H", f"If-None-Match: {expected.headers['etag']}").status == 304
    member = gateway.url("file://b", "a.tar", transform_id=kept.uuid, archpath="000007.bin")
    assert curl(member).body == b"first"


def mark_and_wait(sample, args):
    """Leave a mark for each sample; from the fourth on, wait until the test lets go."""
    number = int(sample["__key__"])
    Path(args, f"mark-{number}").touch()
    while number >= 3 and not Path(args, "go").exists():
        time.sleep(0.005)
    sample["bin"] = sample["bin"] * 20  # fills whatever buffers bytes on the way
    return sample


def test_a_reader_that_leaves_stops_the_function_within_a_sample(gateway, tmp_path):
    etl = WDTransform(gateway.client, mark_and_wait, "marking", "", cache="never")
    reader = Reader(gateway.url("file://b", "a.tar", transform_id=etl.uuid, args=str(tmp_path)))
    eventually(lambda: (tmp_path / "mark-3").exists() and reader.body, what="the first bytes")
    reader.leave()
    eventually(lambda: etl.stats()["abandoned"] == 1, what="the gateway's notice that the reader left")
    (tmp_path / "go").touch()
    # The first worker is through with its job when it can take another.
    everyone = [
        Reader(gateway.url("file://b", "a.tar", transform_id=etl.uuid, args=str(other(tmp_path)))) for _ in "12"
    ]
    assert all(reader.finish().whole for reader in everyone)
    assert len(list(tmp_path.glob("mark-*"))) <= 5


def other(folder: Path) -> Path:
    """Where nobody has to wait."""
    path = Path(tempfile.mkdtemp(dir=folder))
    (path / "go").touch()
    return path


BREAK = Fault(after=700_000, ending="reset")


def test_a_store_that_breaks_under_a_transform_is_not_noticed_by_its_reader(gateway, origin, key):
    etl = WDTransform(gateway.client, first, "over-the-net", "", cache="never")
    data = shard(100, seed=2)
    origin.put(f"clean-{key}", data)
    origin.put(key, data)
    origin.fail(key, BREAK)
    expected = {sample["__key__"] for sample in webdataset_samples(gateway.url("http://web", f"clean-{key}"))}
    answer = curl(gateway.url("http://web", key, transform_id=etl.uuid))
    assert (answer.exit, answer.status) == (0, 200)
    assert set(keys_of(gateway.url("http://web", key, transform_id=etl.uuid))) == expected


def test_a_store_that_breaks_for_good_under_a_transform_breaks_its_reader_off(gateway, origin, key):
    etl = WDTransform(gateway.client, first, "over-the-net", "", cache="never")
    origin.put(key, shard(100, seed=2))
    origin.fail(key, BREAK)
    origin.fail(key, Fault(status=503, headers={"Retry-After": "0"}), times=100)
    answer = curl(gateway.url("http://web", key, transform_id=etl.uuid))
    assert answer.exit != 0 or answer.status >= 500
    origin.heal(key)
    assert curl(gateway.url("http://web", key, transform_id=etl.uuid)).exit == 0


def test_an_object_overwritten_under_a_transform_gives_the_result_of_one_version(gateway, origin, key):
    etl = WDTransform(gateway.client, mirror, "one-version", "", cache="never")
    old, new = shard(100, seed=3), shard(100, seed=4)
    origin.put(key, old, etag="old")
    origin.fail(key, Fault(after=700_000, ending="reset", then=lambda: origin.put(key, new, etag="new")))
    url = gateway.url("http://web", key, transform_id=etl.uuid)
    answer, again = curl(url), curl(url)
    assert again.exit == 0
    assert answer.exit != 0 or answer.status >= 400 or answer.body == again.body, "the rest of the old version is gone"
    fresh = {sample["bin"][::-1] for sample in webdataset_samples(url)}
    assert fresh == {sample["bin"] for sample in webdataset_samples(gateway.url("http://web", key))}


def import_what_is_not_there(data):
    import a_module_that_nobody_has

    return a_module_that_nobody_has.run(data)


class FailsInSetup:
    def setup(self):
        raise RuntimeError("the model file is not there")

    def __call__(self, sample):
        return sample


def test_a_setup_that_fails_is_told_to_who_registers_and_to_every_reader(gateway):
    with pytest.raises(TransformFailed, match="the model file is not there"):
        WDTransform(gateway.client, FailsInSetup, "no-setup", "")
    answer = curl(gateway.url("file://b", "a.tar", transform_id="no-setup"))
    assert answer.status == 422
    assert "the model file is not there" in json.loads(answer.body)["message"]


def test_a_bytes_function_that_fails_names_the_object(gateway):
    etl = BytesTransform(gateway.client, import_what_is_not_there, "no-import")
    answer = curl(gateway.url("file://b", "a.tar", transform_id=etl.uuid))
    assert answer.status == 422
    for name in ("a_module_that_nobody_has", "a.tar"):
        assert name in json.loads(answer.body)["message"]
    assert Client(gateway.endpoint).get("file://b", "a.tar"), "the gateway itself is well"
