"""What is in the state folder is readable by its owner alone, also what was there before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway_process import running_gateway
from readers import curl

from shardgate import BytesTransform, Client
from shardgate_gateway.state.private import open_state

if TYPE_CHECKING:
    from pathlib import Path


def copy(data: bytes) -> bytes:
    print("copying")
    return data


def open_to_others(folder: Path) -> list[Path]:
    below = [path for path in folder.rglob("*") if "work" not in path.parts]
    return [path for path in (folder, *below) if path.stat().st_mode & 0o077 and not path.is_socket()]


def test_nothing_that_a_gateway_keeps_is_readable_to_others(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_bytes(b"-")
    state = tmp_path / "gateway" / "state"
    (state / "packages" / "old").mkdir(parents=True)
    (state / "packages" / "old" / "package").write_bytes(b"code")
    (state / "logs").mkdir()
    (state / "logs" / "old.log").write_bytes(b"said")
    (state / "shardgate.db").touch(mode=0o644)
    assert open_to_others(state)
    with running_gateway(tmp_path / "gateway", {"gcp://data": tmp_path / "data"}) as gateway:
        transform = BytesTransform(Client(gateway.endpoint), copy)
        assert curl(gateway.url("gcp://data", "x", transform_id=transform.uuid)).body == b"-"
        assert not open_to_others(state)
        assert curl(gateway.url("gcp://data", "y"), "-T", str(tmp_path / "data" / "x")).status < 300
        assert (tmp_path / "data" / "y").stat().st_mode & 0o777 == 0o644, "an object is as open as its bucket"
    assert not open_to_others(state)
    assert {path.stat().st_mode & 0o777 for path in state.rglob("*.log")} == {0o600}


def test_what_user_code_made_executable_in_its_own_folder_stays_as_it_is(tmp_path: Path) -> None:
    program = tmp_path / "state" / "run" / "t" / "work" / "program"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    program.chmod(0o755)
    open_state(tmp_path / "state")
    assert program.stat().st_mode & 0o777 == 0o755


def test_a_link_in_the_state_folder_opens_or_closes_nothing_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    elsewhere.chmod(0o644)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "link").symlink_to(elsewhere)
    open_state(tmp_path / "state")
    assert elsewhere.stat().st_mode & 0o777 == 0o644
