"""What a gateway process was started with is not shown by /proc, and still there for itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from gateway_process import running_gateway
from readers import curl

from shardgate import BytesTransform, Client

if TYPE_CHECKING:
    from pathlib import Path

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "aws-secret-value",
    "SHARDGATE_SERVE__TOKEN": "gateway-token-value",
    "HF_TOKEN": "hub-token-value",
}


def environments_above(_data: bytes) -> bytes:
    """The environments of all processes above this worker, as /proc shows them."""
    import os
    from pathlib import Path

    found, pid = [], os.getppid()
    while pid > 1:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"shardgate" in words and b"pytest" not in words:
                found.append(Path(f"/proc/{pid}/environ").read_bytes())
        except PermissionError:
            found.append(b"")
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
    return b"\n".join([b"%d" % len(found), *found])


def test_user_code_cannot_read_the_environment_of_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_bytes(b"-")
    with running_gateway(tmp_path / "gateway", {"gcp://data": tmp_path / "data"}) as gateway:
        transform = BytesTransform(
            Client(gateway.endpoint, token=SECRETS["SHARDGATE_SERVE__TOKEN"]), environments_above
        )
        url = gateway.url("gcp://data", "x", transform_id=transform.uuid)
        answer = curl(url, "-H", f"Authorization: Bearer {SECRETS['SHARDGATE_SERVE__TOKEN']}")
        assert answer.status == 200, answer.body
        assert int(answer.body.split(b"\n")[0]) >= 2, "the runtime, the gateway process and its supervisor"
        for value in SECRETS.values():
            assert value.encode() not in answer.body


CODE = """
import json, os, subprocess, sys
from shardgate_gateway.confidential import hide
hide(lambda name: name == "SHOWN")
shown = open("/proc/self/environ", "rb").read()
child = subprocess.run([sys.executable, "-c", "import os; print(os.environ['HIDDEN'])"], capture_output=True, text=True)
print(json.dumps([shown.decode(), os.environ["HIDDEN"], os.environ["SHOWN"], child.stdout.strip()]))
"""


def test_hidden_variables_are_still_there_for_the_process_and_what_it_starts() -> None:
    environment = {**os.environ, "HIDDEN": "the secret", "SHOWN": "the path"}
    output = subprocess.run([sys.executable, "-c", CODE], env=environment, stdout=subprocess.PIPE, check=True).stdout
    shown, hidden, kept, inherited = json.loads(output)
    assert "the secret" not in shown
    assert "SHOWN=the path" in shown
    assert (hidden, kept, inherited) == ("the secret", "the path", "the secret")


LOOK = """
import ctypes, json, os
from shardgate_gateway.confidential import PR_SET_DUMPABLE, hide

def look(pid):
    found, answer = os.pipe()
    if os.fork() == 0:
        os.setuid(65534)
        seen = []
        for name in ("environ", "maps", "fd"):
            try:
                path = f"/proc/{pid}/{name}"
                os.listdir(path) if name == "fd" else open(path, "rb").read(1)
                seen.append(name)
            except PermissionError:
                pass
        os.write(answer, json.dumps(seen).encode())
        os._exit(0)
    os.wait()
    return json.loads(os.read(found, 1000))

ready, become_ready = os.pipe()
hidden, become_hidden = os.pipe()
go, going = os.pipe()
pid = os.fork()
if pid == 0:
    os.setuid(65534)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)  # as after an exec
    os.write(become_ready, b"1")
    os.read(go, 1)
    hide(lambda _: True)
    os.write(become_hidden, b"1")
    os.read(go, 1)
    os._exit(0)
os.read(ready, 1)
before = look(pid)
os.write(going, b"1")
os.read(hidden, 1)
after = look(pid)
os.write(going, b"1")
os.wait()
print(json.dumps([before, after]))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become somebody else")
def test_another_process_of_the_same_user_cannot_look_into_a_gateway_process() -> None:
    output = subprocess.run([sys.executable, "-c", LOOK], stdout=subprocess.PIPE, check=True).stdout
    before, after = json.loads(output)
    assert before == ["environ", "maps", "fd"]
    assert after == []
