"""What user code starts ends with its transform, also where it hides and kills what watches it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from gateway_process import alive, eventually, running_gateway
from readers import curl

from shardgate import BytesTransform, Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway_process import GatewayProcess


def hide(data: bytes, args: str) -> bytes:
    """Leaves a process in a session of its own and without our environment, and does to its parent what `args` says."""
    import os
    import signal
    import subprocess
    import time
    from pathlib import Path

    how, _, note = args.rpartition(" ")
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True, env={}, stdout=subprocess.DEVNULL)
    with Path(note).open("a") as file:
        file.write(f"{child.pid} ")
    if how == "kill the runtime":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1000)
    return b"done"


@pytest.fixture
def note(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "note"
    path.touch()
    yield path
    for pid in map(int, path.read_text().split()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_bytes(b"-")
    with running_gateway(tmp_path / "gateway", {"gcp://data": tmp_path / "data"}) as running:
        yield running


def living(note: Path) -> list[int]:
    return [pid for pid in map(int, note.read_text().split()) if alive(pid)]


def test_deleting_a_transform_ends_what_it_started(gateway: GatewayProcess, note: Path) -> None:
    transform = BytesTransform(Client(gateway.endpoint), hide)
    assert curl(gateway.url("gcp://data", "x", transform_id=transform.uuid, args=f"- {note}")).body == b"done"
    assert living(note)
    transform.delete()
    assert not living(note)


def test_stopping_the_gateway_ends_what_it_started(gateway: GatewayProcess, note: Path) -> None:
    transform = BytesTransform(Client(gateway.endpoint), hide)
    assert curl(gateway.url("gcp://data", "x", transform_id=transform.uuid, args=f"- {note}")).body == b"done"
    assert living(note)
    gateway.stop()
    assert not living(note)


def test_a_gateway_process_that_is_killed_leaves_nothing_of_what_user_code_started(
    gateway: GatewayProcess, note: Path
) -> None:
    transform = BytesTransform(Client(gateway.endpoint), hide)
    assert curl(gateway.url("gcp://data", "x", transform_id=transform.uuid, args=f"- {note}")).body == b"done"
    assert living(note)
    os.kill(gateway.workers()[0], signal.SIGKILL)
    eventually(lambda: not living(note), what="the end of what user code started")


def test_what_a_runtime_that_was_killed_leaves_behind_is_ended(gateway: GatewayProcess, note: Path) -> None:
    transform = BytesTransform(Client(gateway.endpoint), hide)
    url = gateway.url("gcp://data", "x", transform_id=transform.uuid, args=f"kill the runtime {note}")
    answer = curl(url.replace("kill+the+runtime", "kill%20the%20runtime"))
    assert answer.status != 200
    assert note.read_text()
    eventually(lambda: not living(note), what="the end of what user code started")
    assert curl(gateway.url("gcp://data", "x")).body == b"-"
