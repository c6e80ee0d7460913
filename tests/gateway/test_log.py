"""What the operator of a real gateway reads on its stderr."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from gateway_process import GatewayProcess, eventually, running_gateway
from readers import curl

from shardgate_gateway.bounded_log import BURST

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "an-operators-token-0123"
PASSWORD = "a-password-nobody-may-see"
WRONG = "somebody-elses-token-0123"
BUCKETS = {
    "aws://down": f"s3://there/below?endpoint=http://user:{PASSWORD}@127.0.0.1:1&region=r&access_key_id=id"
    f"&secret_access_key={PASSWORD}&allow_http=true",
    "http://web": f"http://user:{PASSWORD}@127.0.0.1:1/base",
}
QUICK = {"upstream.attempts": 1, "upstream.backoff_seconds": 0, "upstream.progress_timeout": 1}
DISCARD = ("-o", "/dev/null")


def bearer(token: str) -> tuple[str, str]:
    return ("-H", f"Authorization: Bearer {token}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "small").write_bytes(b"small")
    return folder


def records(gateway: GatewayProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.said.splitlines() if line.startswith("{")]


def test_a_start_and_a_stop_are_told_with_what_runs_and_why_it_ends(tmp_path: Path, folder: Path) -> None:
    settings = {"serve.token": TOKEN, "auth.metrics_token": "prometheus-token-0123", **QUICK}
    gateway = GatewayProcess(tmp_path / "g", {"gcp://data": folder, **BUCKETS}, settings=settings, workers=2)
    gateway.start()
    eventually(lambda: "entries, of" in gateway.said)
    assert gateway.stop() == 0
    gateway.close()
    for said in (
        r"shardgate \S+ starts: http://127.0.0.1:\d+, 2 workers, authentication on \(serve.token",
        r"settings: no file, environment .*SHARDGATE_CACHE__DIR",
        rf"cache: {re.escape(str(gateway.cache))} has 0 bytes in 0 entries, of \d+ that it may use",
        rf"bucket gcp://data: {re.escape(str(folder))}",
        r"bucket aws://down: s3://there/below\?endpoint=http://127.0.0.1:1&region=r\n",
        r"bucket http://web: http://127.0.0.1:1/base\n",
        r"stopping: SIGTERM came",
        r"stopped with status 0",
    ):
        assert len(re.findall(said, gateway.said)) == 1, said
    for secret in (TOKEN, PASSWORD, "prometheus-token-0123"):
        assert secret not in gateway.said


def test_the_settings_file_is_named(tmp_path: Path) -> None:
    config = tmp_path / "shardgate.toml"
    config.write_text(f'[serve]\nport = 0\n[cache]\ndir = "/proc/no"\n[state]\ndir = "{tmp_path}/s"\n')
    done = subprocess.run(
        [sys.executable, "-m", "shardgate_gateway", "--config", config], stderr=subprocess.PIPE, text=True, check=False
    )
    assert f"settings: file {config}" in done.stderr
    assert "stopping: worker 0 ended with status 2 before it was ready" in done.stderr
    assert done.returncode == 2


def test_each_failure_and_each_refused_token_is_told_by_its_request_id_and_cause(tmp_path: Path, folder: Path) -> None:
    settings = {"serve.token": TOKEN, **QUICK}
    with running_gateway(tmp_path / "g", {"gcp://data": folder, **BUCKETS}, settings=settings) as gateway:
        refused = curl(gateway.url("gcp://data", "small"), *bearer(WRONG), "-H", "X-Request-Id: refused-1")
        nothing = curl(gateway.url("gcp://data", "small") + "&token=" + WRONG, "-H", "X-Request-Id: refused-2")
        failed = curl(gateway.url("aws://down", "k"), *bearer(TOKEN), "-H", "X-Request-Id: failed-1")
        web = curl(gateway.url("http://web", "k"), *bearer(TOKEN), "-H", "X-Request-Id: failed-2")
        absent = curl(gateway.url("gcp://data", "absent"), *bearer(TOKEN), "-H", "X-Request-Id: absent-1")
        assert (refused.status, nothing.status, absent.status) == (401, 401, 404)
        assert failed.status >= 500
        assert web.status >= 500
        said = gateway.said
    assert re.search(r"request refused-1: GET \S+/small 401: unauthenticated: the bearer token is wrong", said)
    assert re.search(r"request refused-2: GET \S+/small 401: unauthenticated: no bearer token came", said)
    assert re.search(r"request failed-1: GET \S+/k 50\d: upstream_\w+: aws://down/k: .*\(admin from 127.0.0.1\)", said)
    assert "request failed-2" in said
    assert "absent-1" not in said, "a name that is not there is no failure"
    for secret in (TOKEN, WRONG, PASSWORD):
        assert secret not in said
    assert PASSWORD.encode() not in failed.body + web.body


def test_a_flood_of_wrong_tokens_leaves_few_lines_and_their_number(tmp_path: Path, folder: Path) -> None:
    asked = 10 * BURST
    with running_gateway(tmp_path / "g", {"gcp://data": folder}, settings={"serve.token": TOKEN}) as gateway:
        url = gateway.url("gcp://data", "small") + f"&n=[1-{asked}]"
        curl(url, "--no-globoff", *bearer(WRONG), *DISCARD)

        def told() -> int:
            written = gateway.said.count(": unauthenticated: ")
            assert written < asked / 2
            return written + sum(map(int, re.findall(r"(\d+) more refused requests are left out", gateway.said)))

        eventually(lambda: told() == asked)


def test_the_log_is_json_where_that_is_asked_for(tmp_path: Path, folder: Path) -> None:
    settings = {"log.format": "json", "log.access": "true", "serve.token": TOKEN}
    with running_gateway(tmp_path / "g", {"gcp://data": folder}, settings=settings) as gateway:
        curl(gateway.url("gcp://data", "small"), *bearer(WRONG), "-H", "X-Request-Id: r-1")
        for number in range(3):  # from the store, then from memory
            curl(gateway.url("gcp://data", "small"), *bearer(TOKEN), "-H", f"X-Request-Id: ok-{number}")
        eventually(lambda: "ok-2" in gateway.said)
        lines = [line for line in gateway.said.splitlines() if not line.startswith("shardgate listening")]
        assert all(isinstance(json.loads(line), dict) for line in lines)
        found = {record["request_id"]: record for record in records(gateway) if "code" in record}
        access = {r["request_id"]: r for r in records(gateway) if r["logger"] == "shardgate_gateway.access"}
    assert found["r-1"]["status"] == 401
    assert found["r-1"]["code"] == "unauthenticated"
    assert {record["subject"] for identity, record in access.items() if identity != "r-1"} == {"admin"}
    assert [access[f"ok-{number}"]["status"] for number in range(3)] == [200] * 3
    assert all(access[f"ok-{number}"]["bytes"] > len(b"small") for number in range(3))
    assert access["r-1"]["status"] == 401


def test_the_log_says_only_what_its_level_lets_through(tmp_path: Path, folder: Path) -> None:
    settings = {"log.level": "error", "serve.token": TOKEN}
    with running_gateway(tmp_path / "g", {"gcp://data": folder}, settings=settings) as gateway:
        assert curl(gateway.url("gcp://data", "small")).status == 401
        assert curl(gateway.url("gcp://data", "small"), *bearer(TOKEN)).status == 200
    lines = [line for line in gateway.said.splitlines() if not line.startswith("shardgate listening")]
    assert lines == []


def test_sighup_ends_nothing(tmp_path: Path, folder: Path) -> None:
    with running_gateway(tmp_path / "g", {"gcp://data": folder}, workers=2) as gateway:
        before = gateway.tree()
        for process in before:
            os.kill(process, signal.SIGHUP)
        eventually(lambda: gateway.said.count("SIGHUP") == len(before))
        assert curl(gateway.url("gcp://data", "small")).body == b"small"
        assert gateway.tree() == before


def test_a_worker_that_is_killed_is_told_by_the_signal(tmp_path: Path, folder: Path) -> None:
    with running_gateway(tmp_path / "g", {"gcp://data": folder}) as gateway:
        os.kill(gateway.workers()[0], signal.SIGKILL)
        eventually(lambda: "worker 0 was ended by SIGKILL; starting another" in gateway.said)


def test_what_is_wrong_with_a_place_is_told_at_the_start_which_does_not_wait_for_it(
    tmp_path: Path, folder: Path
) -> None:
    silent = "s3://b?endpoint=http://127.0.0.1:1&region=r&access_key_id=i&secret_access_key=s"
    buckets = {
        "gcp://typo": tmp_path / "typo",
        "gcp://file": folder / "small",
        "aws://down": silent,
        "gcp://ok": folder,
    }
    settings = {"cache.capacity_bytes": "9000TB", **QUICK}
    with running_gateway(tmp_path / "g", buckets, settings=settings) as gateway:
        assert curl(gateway.url("gcp://ok", "small")).body == b"small"
        for said in (
            f"WARNING shardgate_gateway.stores.start_check.*bucket gcp://typo: its folder {tmp_path}/typo is not there",
            f"bucket gcp://file: its location {folder}/small is no folder",
            "bucket aws://down: it can't be listed: .*check the bucket's endpoint",
            "WARNING .*cache.capacity_bytes is 9000000000000000, and the disk of .* has",
        ):
            eventually(lambda said=said: re.search(said, gateway.said), what=said)
        assert "bucket gcp://ok: it" not in gateway.said
