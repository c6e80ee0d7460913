"""Functions that are not what they were when another worker runs them again, and readers who must not notice, or must.

Workers are killed inside of samples, readers pause, connections are cut. What ends as a success has whole samples, each
of one run; else the connection breaks, or the reader gets an exception. The oracle is in `random_functions.py`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from gateway_process import eventually
from random_functions import check_complete, check_members, perform, strict_members
from readers import READ_SECONDS, curl, start_curl, webdataset_samples
from servers_faulty import Fault
from servers_toxiproxy import start_toxiproxy
from shards import random_bytes, tar_of

from servers import free_port
from shardgate import Client, ShardgateError, TransferIncomplete, WDTransform
from shardgate.notices import ResultWarning
from shardgate.wds_opener import open_url

SAMPLES = 6
SIZE = 2_500_000
RELEASE_SECONDS = 0.3
MOODS = ("steady", "draws", "grows", "vanishes", "turns", "starves", "sleeps", "dies")
INPUTS = {f"{index:06d}": random_bytes(60_000, index) for index in range(SAMPLES)}
SHARD = tar_of({f"{name}.bin": data for name, data in INPUTS.items()})


@pytest.fixture(scope="module")
def bucket_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket")
    (folder / "a.tar").write_bytes(SHARD)
    return folder


@pytest.fixture(scope="module")
def gateway(start_shared_gateway, bucket_folder, origin):
    """With small rings, so that samples are often cut."""
    settings = {"etl.ring_bytes": 1 << 20, "etl.release_seconds": RELEASE_SECONDS, "upstream.progress_timeout": 30}
    return start_shared_gateway({"file://b": bucket_folder, "http://web": origin.url}, settings=settings)


@pytest.fixture(scope="module")
def etl(gateway):
    """Leaves samples out that fail, so that nothing but the comparison stands between two runs of one."""
    return WDTransform(gateway.client, perform, "moody", "", on_error="skip", sample_timeout=2, cache="never")


@pytest.fixture
def plan(tmp_path):
    """What the function does; its mood is to be added."""
    remembered = tmp_path / "ran"
    remembered.mkdir()
    return {"seed": 1, "moods": ["steady"], "size": SIZE, "folder": str(remembered)}


def url_of(gateway, etl, plan, key="a.tar") -> str:
    return gateway.url("file://b", key, transform_id=etl.uuid, args=json.dumps(plan))


class Killer:
    """Kills all workers where so much was read."""

    def __init__(self, gateway, places: list[int]) -> None:
        self._gateway = gateway
        self._places = sorted(places)
        self.kills = 0

    def read_so_far(self, count: int) -> None:
        while self._places and count >= self._places[0]:
            self._places.pop(0)
            for pid in self._gateway.etl_workers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.kills += 1


PLACES = [SIZE // 2, SIZE * 2 - SIZE // 3, SIZE * 4 + SIZE // 2]
"""Inside of samples."""


def read_with_client(url: str, killer: Killer) -> list[tuple[str, bytes]]:
    received = bytearray()
    with open_url(url) as reader:
        while data := reader.read1(1 << 16):
            received += data
            killer.read_so_far(len(received))
    return strict_members(bytes(received))


def read_with_webdataset(url: str, killer: Killer) -> list[tuple[str, bytes]]:
    found, count = [], 0
    for sample in webdataset_samples(url):
        found += [(f"{sample['__key__']}.{field}", sample[field]) for field in "ab"]
        count += len(sample["a"])
        killer.read_so_far(count + SIZE // 2)
    return found


def read_with_curl_and_tarfile(url: str, killer: Killer) -> list[tuple[str, bytes]]:
    """As a pipe of two programs: tarfile reads while curl writes, and curl says whether all came."""
    process = start_curl(url, "--fail")
    found, count = [], 0
    with process, tarfile.open(fileobj=process.stdout, mode="r|") as archive:
        for member in archive:
            found.append((member.name, archive.extractfile(member).read()))
            count += member.size
            killer.read_so_far(count + SIZE // 2)
        while process.stdout.read(1 << 16):
            pass
    if process.returncode:
        raise ConnectionError(f"curl ended with {process.returncode}")
    return found


READERS = [read_with_client, read_with_webdataset, read_with_curl_and_tarfile]
BREAKS = (ShardgateError, tarfile.TarError, OSError, EOFError, ValueError)
"""How readers notice that a body broke off."""


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("mood", MOODS)
def test_samples_that_differ_when_they_run_again_are_never_mixed_or_missed(gateway, etl, plan, mood, read):
    plan["moods"] = [mood, "steady"]
    killer = Killer(gateway, PLACES)
    try:
        with warnings.catch_warnings(action="ignore", category=ResultWarning):
            members = read(url_of(gateway, etl, plan), killer)
    except BREAKS:
        assert mood != "steady"
        assert killer.kills
    else:
        check_members(members, plan, INPUTS, "skip", gaps=mood in {"starves", "sleeps", "dies"})


def read_in_pauses(reader, gateway, *, kills: bool) -> bytes:
    """Pause inside of samples for longer than a worker waits; workers are killed meanwhile."""
    received, places = bytearray(), list(PLACES)
    killer = Killer(gateway, PLACES if kills else [])
    while data := reader.read(1 << 16):
        received += data
        if places and len(received) >= places[0]:
            places.pop(0)
            time.sleep(RELEASE_SECONDS * 2)
            killer.read_so_far(len(received))
            time.sleep(RELEASE_SECONDS)
    return bytes(received)


@pytest.mark.parametrize("kills", [False, True], ids=["in peace", "while workers are killed"])
@pytest.mark.parametrize("mood", ["steady", "draws", "vanishes"])
def test_a_reader_that_pauses_inside_of_samples_never_gets_a_mixture(gateway, etl, plan, mood, kills):
    plan["moods"] = [mood]
    options = {"transform_id": etl.uuid, "args": json.dumps(plan)}
    try:
        with gateway.client.open("file://b", "a.tar", **options) as reader:
            body = read_in_pauses(reader, gateway, kills=kills)
    except ShardgateError:
        assert mood != "steady"
    else:
        check_complete(body, plan, INPUTS, "skip", gaps=False)


def dawdle(sample):
    """A second stage that takes longer for a sample than a worker waits for its reader."""
    time.sleep(0.7)
    return sample


@pytest.mark.parametrize("mood", ["steady", "draws", "vanishes"])
def test_a_slow_second_stage_never_makes_a_mixture_of_the_first(gateway, etl, plan, mood):
    plan["moods"] = [mood]
    pipeline = etl >> WDTransform(gateway.client, dawdle, "dawdle", "", cache="never")
    try:
        body = pipeline.get("file://b", "a.tar", args={"moody": json.dumps(plan)})
    except ShardgateError:
        assert mood != "steady"
    else:
        check_complete(body, plan, INPUTS, "skip", gaps=False)


@pytest.fixture(scope="module")
def network(gateway, tmp_path_factory):
    with start_toxiproxy(tmp_path_factory.mktemp("toxiproxy")) as toxiproxy:
        yield toxiproxy.proxy(gateway.endpoint)


def through(network, gateway, etl, plan) -> str:
    return url_of(gateway, etl, plan).replace(gateway.endpoint, network.url)


@pytest.mark.servers
@pytest.mark.filterwarnings("ignore::shardgate.ResultWarning")  # what vanishes may leave no sample, on purpose
@pytest.mark.parametrize("mood", ["steady", "draws", "vanishes"])
def test_a_connection_cut_anywhere_costs_our_client_a_try_or_an_error(gateway, etl, plan, network, mood):
    dice = random.Random(mood)
    for number in range(4):
        plan |= {"moods": [mood], "seed": number}
        network.toxic("limit_data", bytes=dice.randrange(1000, SIZE * SAMPLES))
        try:
            with Client(network.url).open("file://b", "a.tar", transform_id=etl.uuid, args=json.dumps(plan)) as reader:
                reader._sleep = lambda _: network.clear()
                body = reader.readall()
        except ShardgateError:
            assert mood != "steady"
        else:
            check_complete(body, plan, INPUTS, "skip", gaps=False)
        network.clear()


@pytest.mark.servers
def test_a_connection_cut_anywhere_is_never_a_shorter_shard_for_webdataset_or_curl(gateway, etl, plan, network):
    dice = random.Random(7)
    for cut in [512, SIZE, SIZE + 1024, *(dice.randrange(1000, SIZE * SAMPLES) for _ in range(3))]:
        network.toxic("limit_data", bytes=cut)
        url = through(network, gateway, etl, plan)
        with pytest.raises(BREAKS):
            list(webdataset_samples(url))
        assert curl(url).exit != 0
        network.clear()
    check_complete(curl(through(network, gateway, etl, plan)).body, plan, INPUTS, "skip", gaps=False)


def name_its_environment(sample):
    sample["bin"] = (os.environ["MODEL"] * SIZE)[:SIZE]
    return sample


@pytest.mark.parametrize("cache", ["never", "auto", "always"])
def test_a_worker_of_another_environment_never_goes_on_with_a_result(gateway, cache):
    def register(model: str) -> WDTransform:
        name = f"environment-{cache}"
        return WDTransform(gateway.client, name_its_environment, name, "", cache=cache, env={"MODEL": model})

    def models(body: bytes) -> set[str]:
        return {data[:1].decode() if data == data[:1] * SIZE else "mixed" for _, data in strict_members(body)}

    first = register("a")
    received = bytearray()
    try:
        with gateway.client.open("file://b", "a.tar", transform_id=first.uuid) as reader:
            received += reader.read(SIZE + SIZE // 2)
            time.sleep(RELEASE_SECONDS * 3)
            second = register("b")
            second.stop()
            second.start()
            received += reader.readall()
    except ShardgateError:
        pass
    else:
        assert models(bytes(received)) == {"a"}
    assert models(second.get("file://b", "a.tar")) == {"b"}
    assert models(second.get("file://b", "a.tar")) == {"b"}


def wait_while_busy(sample, args):
    """Takes too long for one sample while the machine is busy."""
    if sample["__key__"] == "000003":
        while Path(args, "busy").exists():
            time.sleep(0.01)
    return sample


def starve_while_busy(sample, args):
    if sample["__key__"] == "000003" and Path(args, "busy").exists():
        raise MemoryError
    return sample


@contextmanager
def busy(folder: Path):
    (folder / "busy").touch()
    yield
    (folder / "busy").unlink()


@pytest.mark.parametrize("cache", ["auto", "always"])
@pytest.mark.parametrize("function", [wait_while_busy, starve_while_busy])
def test_a_gap_that_may_pass_is_told_counted_and_never_kept(gateway, tmp_path, function, cache):
    name = f"{function.__name__}-{cache}".replace("_", "-")
    etl = WDTransform(gateway.client, function, name, "", on_error="skip", sample_timeout=1, cache=cache)
    options = {"transform_id": etl.uuid, "args": str(tmp_path)}
    with busy(tmp_path):
        with pytest.warns(ResultWarning, match="lacks 1 sample"):
            body = gateway.client.get("file://b", "a.tar", **options)
        assert [name[:6] for name, _ in strict_members(body)] == [key for key in INPUTS if key != "000003"]
        assert curl(gateway.url("file://b", "a.tar", **options), "-I").headers["etag"].startswith("W/")
    eventually(lambda: etl.stats()["samples_gaps"] >= 1, what="the count")
    for _ in range(3):
        with gateway.client.open("file://b", "a.tar", **options) as reader:
            assert [name[:6] for name, _ in strict_members(reader.readall())] == list(INPUTS)


def say_what_a_file_says(sample, args):
    sample["txt"] = Path(args).read_text()
    return sample


def test_an_evict_and_a_delete_reach_kept_results(gateway, tmp_path):
    def register() -> WDTransform:
        return WDTransform(gateway.client, say_what_a_file_says, "says", "", cache="always")

    def said(etl: WDTransform) -> set[bytes]:
        members = strict_members(etl.get("file://b", "a.tar", args=str(file)))
        return {data for name, data in members if name.endswith(".txt")}

    file = tmp_path / "words"
    etl = register()
    for words, before, forget in [(b"1", b"1", None), (b"2", b"1", "evict"), (b"3", b"2", "delete")]:
        file.write_bytes(words)
        assert said(etl) == {before}, "it is kept"
        if forget == "evict":
            gateway.client.cache.evict("file://b", "a.tar")
        elif forget == "delete":
            etl.delete()
            etl = register()
        assert said(etl) == {words}


@pytest.mark.servers
def test_a_kept_result_that_is_made_anew_under_a_reader_is_never_mixed(gateway, network, tmp_path):
    file = tmp_path / "words"
    file.write_text("1" * SIZE)
    etl = WDTransform(gateway.client, say_what_a_file_says, "says-much", "", cache="always")
    options = {"transform_id": etl.uuid, "args": str(file)}
    for _ in range(2):
        gateway.client.get("file://b", "a.tar", **options)
    network.toxic("limit_data", bytes=SIZE + SIZE // 2)

    def make_anew(_: float) -> None:
        file.write_text("2" * SIZE)
        gateway.client.cache.evict("file://b", "a.tar")
        network.clear()

    with Client(network.url).open("file://b", "a.tar", **options) as reader:
        reader._sleep = make_anew
        with pytest.raises(TransferIncomplete, match="came out differently"):
            reader.readall()


TAGS = {"weak": 'W/"v1"', "quoted": '"v1%2Fabc"', "spaced": '"a b"', "none": None}


@pytest.mark.parametrize("tag", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("stages", [1, 2])
def test_shards_with_awkward_etags_are_transformed_cold(gateway, etl, plan, origin, key, tag, stages):
    origin.put(key, SHARD, etag="")
    origin.head = Fault(headers={"ETag": tag})
    origin.fail(key, Fault(headers={"ETag": tag}), times=100)
    plan["size"] = 100_000
    chain = etl >> etl_that_copies(gateway) if stages == 2 else etl
    args = {"moody": json.dumps(plan)} if stages == 2 else json.dumps(plan)
    try:
        for _ in range(2):
            check_complete(chain.get("http://web", key, args=args), plan, INPUTS, "skip", gaps=False)
    finally:
        origin.head = Fault()


def etl_that_copies(gateway) -> WDTransform:
    return WDTransform(gateway.client, copy, "copy", "", cache="never")


def copy(sample):
    return sample


@pytest.fixture
def plain_server(tmp_path):
    """`python -m http.server`, which knows neither etags nor ranges."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served/a.tar").write_bytes(SHARD)
    port = free_port()
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", tmp_path / "served"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*map(str, command), str(port)], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: curl(f"{url}/a.tar", "-I").status == 200, seconds=READ_SECONDS, what="the web server")
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("cache", ["never", "always"])
def test_a_shard_of_pythons_own_web_server_is_transformed_cold_and_in_a_pipeline(
    start_gateway, plain_server, plan, cache
):
    gateway = start_gateway({"http://plain": plain_server})
    etl = WDTransform(gateway.client, perform, "moody", "", on_error="fail", cache=cache)
    plan["size"] = 100_000
    for _ in range(2):
        body = etl.get("http://plain", "a.tar", args=json.dumps(plan))
        check_complete(body, plan, INPUTS, "fail", gaps=False)
    gateway.client.cache.evict("http://plain", "a.tar")
    body = (etl >> etl_that_copies(gateway)).get("http://plain", "a.tar", args={"moody": json.dumps(plan)})
    check_complete(body, plan, INPUTS, "fail", gaps=False)
