"""The helpers themselves: every server starts, does what its tests rely on, and is gone afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import servers_install
from servers_toxiproxy import start_toxiproxy

from servers import start_azurite, start_fake_gcs, start_minio, start_nginx, start_versitygw

SUPPORT = Path(servers_install.__file__).parent

pytestmark = pytest.mark.servers


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("start", [start_versitygw, start_minio, start_azurite, start_fake_gcs, start_nginx])
def test_a_store_listens_while_it_is_wanted_and_not_longer(start, tmp_path):
    with start(tmp_path / "objects") as server:
        assert listens(server.port)
    assert not listens(server.port)
    assert server.process.returncode is not None


def test_nginx_takes_puts_serves_ranges_and_deletes(tmp_path):
    with start_nginx(tmp_path / "objects") as server:
        urlopen(Request(f"{server.url}/a/b.tar", data=b"0123456789", method="PUT")).close()
        assert (tmp_path / "objects/a/b.tar").read_bytes() == b"0123456789"
        with urlopen(Request(f"{server.url}/a/b.tar", headers={"Range": "bytes=2-4"})) as response:
            assert response.status == 206
            assert response.read() == b"234"
        urlopen(Request(f"{server.url}/a/b.tar", method="DELETE")).close()
        with pytest.raises(HTTPError, match="404") as caught:
            urlopen(f"{server.url}/a/b.tar")
        caught.value.close()


def test_toxiproxy_cuts_a_transfer_and_heals(tmp_path):
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects/a").write_bytes(bytes(1_000_000))
    with start_nginx(tmp_path / "objects") as server, start_toxiproxy(tmp_path) as toxiproxy:
        proxy = toxiproxy.proxy(server.url)
        proxy.toxic("limit_data", bytes=100_000)
        with urlopen(f"{proxy.url}/a") as response, pytest.raises(Exception, match=r"IncompleteRead|reset"):
            response.read()
        proxy.clear()
        with urlopen(f"{proxy.url}/a") as response:
            assert len(response.read()) == 1_000_000
        proxy.disable()
        assert not listens(int(proxy.address.rpartition(":")[2]))


def test_a_server_dies_with_the_test_process_that_started_it(tmp_path):
    script = (
        f"import sys, time; sys.path.insert(0, {str(SUPPORT)!r})\n"
        "from pathlib import Path\n"
        "from servers import start_nginx\n"
        f"with start_nginx(Path({str(tmp_path / 'objects')!r})) as server:\n"
        "    print(server.port, flush=True); time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    port = int(parent.stdout.readline())
    assert listens(port)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 20
    while listens(port) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not listens(port)


def test_a_program_that_cannot_be_installed_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(servers_install, "TOOLS", tmp_path)
    tool = servers_install.Tool("no-such-program", "no-such-program", servers_install._npm, "x")
    monkeypatch.setitem(servers_install.CATALOGUE, tool.name, tool)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="npm is not installed"):
        servers_install.require(tool.name)
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="npm is not installed"):
        servers_install.require(tool.name)
