"""A gateway of one's own: it comes up, does everything, and never outlives its owner."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import textwrap
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from shardgate import (
    BadRequest,
    BytesTransform,
    Client,
    EmbeddedGatewayError,
    GatewayUnreachable,
    NotFound,
    ResultWarning,
    TransformFailed,
    WDTransform,
    embedded,
)
from shardgate.cli.etl import stats

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("shardgate_gateway.app")

BUCKET = "gcp://sharded-imagenet"
AWKWARD = ["a b%20.tar", "100%.tar", "a#b?c=d&e", "ünï/日本.tar", "x{1,2}[3-5].tar", "a::b${HOME}"]


def shard(samples: int) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for index in range(samples):
            body = str(index).encode()
            member = tarfile.TarInfo(f"{index:04d}.txt")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return data.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bucket")
    (folder / "s.tar").write_bytes(shard(20))
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with embedded({BUCKET: folder}) as client:
        yield client


def test_objects_go_up_and_come_down(client: Client, folder: Path) -> None:
    body = os.urandom(2_000_000)
    client.put(BUCKET, "new/object", body)
    assert (folder / "new" / "object").read_bytes() == body
    assert client.get(BUCKET, "new/object") == body
    info = client.head(BUCKET, "new/object")
    assert info.size == len(body)
    (listed,) = client.list(BUCKET, "new/")
    assert (listed.name, listed.size, listed.etag) == ("new/object", len(body), info.etag)
    client.delete(BUCKET, "new/object")
    with pytest.raises(NotFound):
        client.get(BUCKET, "new/object")


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_names_are_the_same_object_for_put_list_and_get(client: Client, name: str) -> None:
    client.put(BUCKET, name, name.encode())
    assert client.get(BUCKET, name) == name.encode()
    assert name in [info.name for info in client.list(BUCKET)]
    client.delete(BUCKET, name)


def test_samples_are_transformed_and_counted(client: Client) -> None:
    def double(sample: dict[str, Any]) -> dict[str, Any] | None:
        number = int(sample["txt"])
        return {"__key__": sample["__key__"], "txt": str(2 * number)} if number % 2 else None

    etl = WDTransform(client, double, "double-odd")
    with tarfile.open(fileobj=io.BytesIO(etl.get(BUCKET, "s.tar"))) as tar:
        made = {member.name: tar.extractfile(member).read() for member in tar}
    assert made == {f"{n:04d}.txt": str(2 * n).encode() for n in range(1, 20, 2)}
    assert WDTransform(client, double, "double-odd").uuid == etl.uuid
    record = client.transforms.show("double-odd")
    assert (record["id"], record["state"]) == (etl.uuid, "ready")
    deadline = time.monotonic() + 30
    while etl.stats()["samples_in"] < 20:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert etl.stats()["samples_out"] == 10
    etl.delete()
    with pytest.raises(NotFound):
        etl.stats()


def test_a_function_that_forgets_to_return_is_told_of(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    def forgetful(sample: dict[str, Any]) -> None:
        sample["txt"] = "changed"

    etl = WDTransform(client, forgetful)
    with pytest.warns(ResultWarning, match=r"s.tar has no samples: .*was `return sample` forgotten\?"):
        etl.get(BUCKET, "s.tar")
    assert "the function returned nothing for any of 20 samples of gcp://sharded-imagenet/s.tar; was" in etl.logs()
    deadline = time.monotonic() + 30
    while etl.stats()["samples_in"] < 20:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.warns(ResultWarning, match="returned nothing for any of 20 samples"):
        etl.get(BUCKET, "s.tar")
    stats(etl.uuid, endpoint=client.endpoint)
    assert "nothing came of any of" in capsys.readouterr().err


def test_bytes_and_args_reach_the_function(client: Client) -> None:
    def shout(data: bytes, args: str) -> bytes:
        return data[:4] + args.encode()

    etl = BytesTransform(client, shout)
    assert etl.get(BUCKET, "s.tar", args="!")[-1:] == b"!"
    assert etl.get(BUCKET, "s.tar", args={"b": 2, "a": 1}).endswith(b'{"a":1,"b":2}')


def test_a_class_is_set_up_in_its_workers(client: Client) -> None:
    class Model:
        def setup(self) -> None:
            import threading

            self.lock = threading.Lock()  # could not be sent

        def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
            with self.lock:
                return {**sample, "txt": "set up"}

    etl = WDTransform(client, Model)
    with tarfile.open(fileobj=io.BytesIO(etl.get(BUCKET, "s.tar"))) as tar:
        assert {tar.extractfile(member).read() for member in tar} == {b"set up"}


def test_what_kept_it_from_starting_comes_back_as_an_exception(client: Client) -> None:
    class Broken:
        def setup(self) -> None:
            raise RuntimeError("the weights are not where they should be")

        def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
            return sample

    with pytest.raises(TransformFailed, match="the weights are not where"):
        WDTransform(client, Broken)
    with pytest.raises(TransformFailed, match=r"needs surely-not-a-distribution==1\.0") as caught:
        WDTransform(client, lambda sample: sample, "needy", requirements=["surely-not-a-distribution==1.0"])
    assert "pip install" in caught.value.hint


def test_a_failing_sample_is_named_in_the_exception(client: Client) -> None:
    def fragile(sample: dict[str, Any]) -> dict[str, Any]:
        if sample["__key__"] == "0000":
            raise ValueError("too bright")
        return sample

    with pytest.raises(TransformFailed, match="too bright") as caught:
        WDTransform(client, fragile).get(BUCKET, "s.tar")
    assert "0000" in caught.value.message


def test_a_package_that_is_none_is_refused(client: Client) -> None:
    with pytest.raises(BadRequest, match="not a transform package"):
        client.transforms.register(b"\x93nonsense")


def test_the_cache_is_filled_and_emptied_on_request(client: Client) -> None:
    client.cache.evict(BUCKET, "s.tar")
    before = client.cache.stat()["entries"]
    client.cache.prefetch(BUCKET, "s.tar")
    assert client.cache.stat()["entries"] == before + 1
    client.cache.evict(BUCKET, "s.tar")
    assert client.cache.stat()["entries"] == before


def test_a_directory_keeps_what_was_registered(folder: Path, tmp_path: Path) -> None:
    with embedded({BUCKET: folder}, directory=tmp_path / "home") as client:
        uuid = BytesTransform(client, bytes.upper, "kept").uuid
    with embedded({BUCKET: folder}, directory=tmp_path / "home") as client:
        assert [record["id"] for record in client.transforms.list()] == [uuid]
        assert len(client.get(BUCKET, "s.tar", transform_id="kept")) == len(shard(20))


def test_a_gateway_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedGatewayError, match="no-such-flag"), embedded({}, options=["--no-such-flag"]):
        pass


def test_it_runs_until_it_is_stopped_without_a_block(folder: Path, tmp_path: Path) -> None:
    gateway = embedded({BUCKET: folder}, log=tmp_path / "log")
    client = gateway.client
    assert len(client.get(BUCKET, "s.tar")) == len(shard(20))
    assert client.endpoint in repr(gateway)
    gateway.stop()
    gateway.stop()
    assert "stopped" in repr(gateway)
    with pytest.raises(GatewayUnreachable):
        client.head(BUCKET, "s.tar")
    with pytest.raises(EmbeddedGatewayError, match="was stopped"), gateway:
        pass


def test_a_folder_that_is_none_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedGatewayError, match=r"does not exist: .*/nothing"):
        embedded({BUCKET: tmp_path / "nothing"})
    with pytest.raises(EmbeddedGatewayError, match=r"does not exist: .*/nothing"):
        embedded({BUCKET: f"file://{tmp_path}/nothing"})
    with pytest.raises(EmbeddedGatewayError, match="/file is a file, and the bucket gcp://sharded-imagenet needs"):
        embedded({BUCKET: tmp_path / "file"})


def test_neither_an_interrupt_nor_the_end_of_a_thread_nor_a_forked_process_stops_it(folder: Path) -> None:
    code = f"""
        import os, signal, threading, shardgate
        made = []
        thread = threading.Thread(target=lambda: made.append(shardgate.embedded({{"{BUCKET}": {str(folder)!r}}})))
        thread.start()
        thread.join()
        client = made[0].client
        if not os.fork():
            raise SystemExit
        os.wait()
        try:
            os.killpg(0, signal.SIGINT)
            signal.pause()
        except KeyboardInterrupt:
            print(len(client.get("{BUCKET}", "s.tar")), client.endpoint)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
    )
    size, url = done.stdout.split()
    assert int(size) == len(shard(20))
    with pytest.raises(GatewayUnreachable):
        Client(url).head(BUCKET, "s.tar")
    assert done.stderr == ""


def test_it_is_gone_after_the_block_and_when_its_owner_is_killed(folder: Path) -> None:
    with embedded({BUCKET: folder}) as client:
        url = client.endpoint
    with pytest.raises(GatewayUnreachable):
        Client(url).head(BUCKET, "s.tar")

    code = f"""
        import time, shardgate
        with shardgate.embedded({{"{BUCKET}": {str(folder)!r}}}) as client:
            print(client.endpoint, flush=True)
            time.sleep(600)
    """
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    with owner:
        port = urlsplit(owner.stdout.readline().strip()).port
        socket.create_connection(("127.0.0.1", port)).close()
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    pytest.fail("the gateway outlived the process that started it")
