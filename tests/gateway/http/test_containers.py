"""Programs in other languages as transforms, in embedded mode: their commands run as processes of this machine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from container_server import command, turned
from gateway_process import GatewayProcess, alive, eventually, running_gateway
from PIL import Image
from readers import curl

from shardgate import BadRequest, TransferIncomplete, TransformFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardgate import ContainerTransform

BIG = random.Random(5).randbytes(3_000_000)
BUCKET = "gcp://data"
GO = Path(__file__).parents[3] / "examples" / "container_go"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("containers")
    (folder / "data").mkdir()
    (folder / "data" / "big").write_bytes(BIG)
    (folder / "data" / "empty").write_bytes(b"")
    with running_gateway(
        folder / "gateway", {BUCKET: folder / "data"}, workers=2, settings={"etl.progress_timeout": 2}
    ) as running:
        yield running


@pytest.fixture
def turn(gateway: GatewayProcess, tmp_path: Path) -> Iterator[ContainerTransform]:
    made = container(gateway, tmp_path)
    yield made
    made.delete()


def container(gateway: GatewayProcess, folder: Path, **how: Any) -> ContainerTransform:
    name = "turn-" + hashlib.sha256(str(folder).encode()).hexdigest()[:8]
    return gateway.client.etl_from_image(command=command(folder), name=name, **{"cache": "never", **how})


def get(made: ContainerTransform, **args: Any) -> bytes:
    return made.get(BUCKET, "big", args=args or None)


def test_a_command_is_a_transform_with_logs_stats_and_an_identity(
    gateway: GatewayProcess, turn: ContainerTransform, tmp_path: Path
) -> None:
    assert get(turn) == turned(BIG)
    assert turn.get(BUCKET, "empty") == b""
    assert get(turn, length=True) == turned(BIG)
    assert "request PUT big" in turn.logs()
    eventually(lambda: (turn.stats()["completed"], turn.stats()["bytes_in"]) == (3, 2 * len(BIG)))
    again = gateway.client.etl_from_image(command=command(tmp_path), name=turn.name, cache="never")
    assert again.uuid == turn.uuid
    other = gateway.client.etl_from_image(command=command(tmp_path), name=turn.name, env={"A": "b"})
    assert other.uuid != turn.uuid
    other.delete()


def test_a_container_is_told_what_it_is_asked_for(gateway: GatewayProcess, tmp_path: Path) -> None:
    made = container(gateway, tmp_path, env={"SIZE": "64"}, content_type="image/jpeg")
    told = json.loads(made.get(BUCKET, "big", args={"echo": True, "ü": "100 %"}, seed=3, epoch=4))
    assert json.loads(told["query"]["args"]) == {"echo": True, "ü": "100 %"}
    assert told["query"]["args"] == '{"echo":true,"\\u00fc":"100 %"}'
    headers = told["headers"]
    assert headers["X-Shardgate-Args"] == told["query"]["args"].replace("%", "%25")
    assert (headers["X-Shardgate-Bucket"], headers["X-Shardgate-Object"]) == (BUCKET, "big")
    assert (headers["X-Shardgate-Seed"], headers["X-Shardgate-Epoch"]) == ("3", "4")
    assert headers["Content-Length"] == str(told["bytes"]) == str(len(BIG))
    assert told["env"]["SIZE"] == "64"
    assert not [name for name in told["env"] if name.startswith("SHARDGATE_")]
    answer = curl(gateway.url(BUCKET, "big", transform_id=made.uuid))
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["etag"].startswith('W/"')
    made.delete()


def test_an_error_of_the_container_is_the_answer(turn: ContainerTransform) -> None:
    with pytest.raises(TransformFailed, match="gcp://data/big: the container answered 422: no such\nthing"):
        get(turn, status=422, say="no such\nthing")
    with pytest.raises(TransformFailed, match="the container answered 302"):
        get(turn, status=302)
    with pytest.raises(TransformFailed, match="neither a Content-Length nor chunks"):
        get(turn, unframed=True)


def test_a_container_that_is_lost_is_asked_again_and_the_reader_sees_a_pause(
    turn: ContainerTransform, gateway: GatewayProcess, tmp_path: Path
) -> None:
    assert get(turn, cut=1_000_001, times=2) == turned(BIG)
    eventually(lambda: turn.stats()["lost"] >= 2)
    (tmp_path / "faults").unlink()
    assert get(turn, die=2_000_001) == turned(BIG)
    eventually(lambda: turn.stats()["lost"] >= 3)
    assert "exit status 3" in turn.logs()


def test_a_container_that_gives_other_bytes_the_second_time_is_found_out(
    turn: ContainerTransform, gateway: GatewayProcess
) -> None:
    with pytest.raises(TransferIncomplete):
        get(turn, cut=1_500_000, noise=True)
    assert "the transform is not deterministic" in gateway.said


def test_a_container_that_hangs_is_given_up_for_want_of_progress(turn: ContainerTransform, tmp_path: Path) -> None:
    (tmp_path / "wait").touch()
    answer = curl_args(turn, {"wait": True})
    (tmp_path / "wait").unlink()
    assert answer.status == 502
    assert "moved no byte in 2 s" in json.loads(answer.body)["message"]


def curl_args(made: ContainerTransform, args: dict[str, Any]) -> Any:
    return curl(made._client.object_url(BUCKET, "big", transform_id=made.uuid, args=args))


def test_results_are_kept_and_read_in_parts(gateway: GatewayProcess, tmp_path: Path) -> None:
    made = container(gateway, tmp_path, cache="always")
    whole = get(made)
    part = curl(gateway.url(BUCKET, "big", transform_id=made.uuid), "-H", "Range: bytes=1000-1999")
    assert (part.status, part.body) == (206, whole[1000:2000])
    eventually(lambda: made.stats()["completed"] == 1)
    made.delete()


def test_with_get_the_container_reads_the_object_itself(gateway: GatewayProcess, tmp_path: Path) -> None:
    made = container(gateway, tmp_path, method="get")
    assert get(made) == turned(BIG)
    assert "request GET big" in made.logs()
    made.delete()


def test_what_keeps_a_command_from_starting_is_told(gateway: GatewayProcess, tmp_path: Path) -> None:
    client = gateway.client
    with pytest.raises(TransformFailed, match="/nowhere/at-all can't be run: No such file"):
        client.etl_from_image(command=["/nowhere/at-all"], name="nowhere")
    with pytest.raises(TransformFailed, match="exit status 7") as failure:
        client.etl_from_image(command=["sh", "-c", "echo sorry, no; exit 7"], name="sorry")
    assert "sorry, no" in str(failure.value)
    with pytest.raises(BadRequest, match="runs no images"):
        client.etl_from_image("registry/image:1", name="image")
    with pytest.raises(BadRequest, match="port can't be 0"):
        client.etl_from_image(command=["true"], name="port", port=0)


def test_a_command_ends_when_idle_and_starts_with_the_next_request(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "big").write_bytes(BIG)
    with running_gateway(
        tmp_path / "gateway", {BUCKET: tmp_path / "data"}, workers=2, settings={"etl.idle_seconds": 1}
    ) as gateway:
        made = container(gateway, tmp_path / "container")
        pids = [pid for pid in gateway.tree() if is_server(pid)]
        assert len(pids) == 1
        eventually(lambda: not alive(pids[0]), what="the idle end of the command")
        eventually(lambda: gateway.client.transforms.show(made.uuid)["state"] == "idle")
        assert get(made) == turned(BIG)
        [pid] = [pid for pid in gateway.tree() if is_server(pid)]
        os.kill(pid, signal.SIGKILL)
        assert get(made) == turned(BIG)
        [pid] = [pid for pid in gateway.tree() if is_server(pid)]
        gateway.kill()
        eventually(lambda: not alive(pid), what="the end of the command of a gateway that was killed")
        gateway.start()
        assert get(made) == turned(BIG)


def is_server(pid: int) -> bool:
    return b"container_server.py" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go on this machine")
def test_the_example_in_go_makes_thumbnails(gateway: GatewayProcess, tmp_path: Path) -> None:
    binary = tmp_path / "thumbnails"
    subprocess.run(["go", "build", "-o", binary, "."], cwd=GO, check=True, env={**os.environ, "CGO_ENABLED": "0"})
    photo = io.BytesIO()
    Image.linear_gradient("L").resize((400, 300)).convert("RGB").save(photo, "JPEG")
    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for index in range(30):
            for name, body in ((f"{index:03d}.jpg", photo.getvalue()), (f"{index:03d}.cls", b"%d" % index)):
                member = tarfile.TarInfo(name)
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
    gateway.client.put(BUCKET, "photos.tar", shard.getvalue())
    made = gateway.client.etl_from_image(command=[str(binary)], name="thumbnails", content_type="application/x-tar")
    small = made.get(BUCKET, "photos.tar", args={"size": 40})
    with tarfile.open(fileobj=io.BytesIO(small)) as tar:
        assert len(tar.getnames()) == 60
        assert Image.open(tar.extractfile("007.jpg")).size == (40, 30)  # type: ignore[arg-type]
        assert tar.extractfile("007.cls").read() == b"7"  # type: ignore[union-attr]
    assert len(small) < len(shard.getvalue())
    with pytest.raises(TransformFailed, match="want"):
        made.get(BUCKET, "photos.tar", args={"size": "wide"})
    with pytest.raises(TransformFailed, match="answered 422"):
        made.get(BUCKET, "big")
