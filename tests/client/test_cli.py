"""The command line: results on stdout, messages on stderr, and an exit code for each kind of failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from shardgate.cli.main import app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fake_gateway import FakeGateway

    Run = Callable[..., int]


@pytest.fixture
def run(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run one command against the fake gateway, in a folder of its own, and return its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    def command(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["shardgate", *words])
        with pytest.raises(SystemExit) as caught:
            app()
        return int(caught.value.code or 0)

    return command


def test_objects_go_up_are_listed_come_down_and_go(
    run: Run, gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shard.tar").write_bytes(b"x" * 2048)
    assert run("put", "shard.tar", "gcp://b/dir/") == 0
    assert gateway.objects == {"gcp://b/dir/shard.tar": b"x" * 2048}
    assert run("ls", "gcp://b/dir") == 0
    out = capsys.readouterr().out
    assert "2.0 KiB" in out
    assert "2026-11-21 07:00" in out
    assert "dir/shard.tar" in out
    assert run("get", "gcp://b/dir/shard.tar", "copy.tar") == 0
    assert (tmp_path / "copy.tar").read_bytes() == b"x" * 2048
    assert run("rm", "gcp://b/dir/shard.tar") == 0
    assert gateway.objects == {}


def test_get_names_its_file_after_the_object_and_takes_folders(run: Run, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.objects["gcp://b/dir/k.tar"] = b"body"
    (tmp_path / "sub").mkdir()
    assert run("get", "gcp://b/dir/k.tar") == 0
    assert run("get", "gcp://b/dir/k.tar", "sub") == 0
    assert (tmp_path / "k.tar").read_bytes() == (tmp_path / "sub" / "k.tar").read_bytes() == b"body"


def test_several_objects_are_got_by_braces_and_wildcards_into_a_folder(
    run: Run, gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.objects = {f"gcp://b/{key}": key.encode() for key in ("a-0.tar", "a-1.tar", "d/a-2.tar", "z[1].tar")}
    (tmp_path / "out").mkdir()
    assert run("get", "gcp://b/a-*.tar", "gcp://b/d/a-{2..2}.tar", r"gcp://b/z\[1\].tar", "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-0.tar", "a-1.tar", "a-2.tar", "z[1].tar"]
    assert run("get", "gcp://b/a-{0..1}.tar") == 0
    assert (tmp_path / "a-1.tar").read_bytes() == b"a-1.tar"
    assert "\n\n" not in capsys.readouterr().err, "a bar in a pipe is no empty line"
    assert run("ls", "gcp://b/a-?.tar") == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["NAME", "a-0.tar", "a-1.tar"]
    assert run("rm", "gcp://b/**a-?.tar", "gcp://b/a-0.tar") == 0
    assert list(gateway.objects) == ["gcp://b/z[1].tar"]
    assert "3 objects deleted" in capsys.readouterr().err


def test_several_objects_never_become_one_file(run: Run, gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.objects = {f"gcp://b/{key}": b"" for key in ("a/0.tar", "b/0.tar", "1.tar")}
    assert run("get", "gcp://b/**.tar") == 2, "two would be 0.tar"
    assert run("get", "gcp://b/1.tar", "gcp://b/a/0.tar", "one-file") == 2
    assert run("get", "gcp://b/1.tar", "no-folder/") == 2
    (tmp_path / "x").mkdir()
    for name in ("0.tar", "x/0.tar"):
        (tmp_path / name).write_bytes(b"new")
    assert run("put", "0.tar", "x/0.tar", "gcp://b/c/") == 2
    assert run("put", "0.tar", "x/0.tar", "gcp://b/c") == 2
    assert list(tmp_path.glob("*.tar")) == [tmp_path / "0.tar"]
    assert len(gateway.objects) == 3


def test_several_files_are_put_into_a_bucket(run: Run, gateway: FakeGateway, tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).write_bytes(name.encode())
    assert run("put", "0.tar", "1.tar", "gcp://b") == 0
    assert run("put", "0.tar", str(tmp_path / "1.tar"), "gcp://b/d/") == 0
    assert sorted(gateway.objects) == ["gcp://b/0.tar", "gcp://b/1.tar", "gcp://b/d/0.tar", "gcp://b/d/1.tar"]


def test_numbers_are_for_people_and_raw_in_json(
    run: Run, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.packages["loud-0"] = b""
    gateway.stats = {"bytes_in": 51308648857, "decode_seconds": 7.156242139002529, "fetch_seconds": 3725.0}
    gateway.facts = {"created_at": "2026-11-27T13:24:17.552973+00:00"}
    assert run("etl", "stats", "loud-0") == 0
    assert run("etl", "ls") == 0
    out = capsys.readouterr().out
    for said in ("47.8 GiB", "7.2 s", "1 h 2 min", "2026-11-27 13:24\n"):
        assert said in out, said
    assert run("etl", "stats", "loud-0", "--json") == 0
    assert json.loads(capsys.readouterr().out) == gateway.stats


def test_a_transformed_object_is_got_by_its_options(run: Run, gateway: FakeGateway) -> None:
    gateway.objects["gcp://b/k.tar"] = b"body"
    assert run("get", "gcp://b/k.tar", "--transform", "train", "--epoch", "3", "--args", "a=1") == 0
    assert gateway.requests[-1][1] == "/v1/objects/b/k.tar?provider=gcp&transform_id=train&args=a%3D1&epoch=3"


def test_stdin_and_stdout_carry_bytes_alone(gateway: FakeGateway) -> None:
    body = os.urandom(3_000_000)
    shardgate = [sys.executable, "-c", "from shardgate.cli.main import app; app()"]
    environment = {**os.environ, "SHARDGATE_ENDPOINT": gateway.url}
    subprocess.run([*shardgate, "put", "-", "gcp://b/k"], input=body, env=environment, check=True)
    assert gateway.objects["gcp://b/k"] == body
    got = subprocess.run([*shardgate, "get", "gcp://b/k", "-"], env=environment, check=True, capture_output=True)
    assert got.stdout == body
    assert got.stderr == b""


def test_json_is_for_programs(run: Run, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.objects["gcp://b/k"] = b"12345"
    assert run("ls", "gcp://b", "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["size"]) == ("k", 5)
    assert run("head", "gcp://b/k", "--json") == 0
    assert json.loads(capsys.readouterr().out)["content_type"] == "application/x-tar"
    assert run("cache", "stat", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"entries": 1, "bytes": 5}
    assert run("ls", "--json") == 0
    assert json.loads(capsys.readouterr().out)["buckets"][0]["bucket"] == "gcp://b"


def test_people_get_tables(run: Run, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.objects["gcp://b/k"] = b"12345"
    assert run("ls") == 0
    assert run("head", "gcp://b/k") == 0
    assert run("cache", "stat") == 0
    out = capsys.readouterr().out
    assert "gcp://b" in out
    assert "application/x-tar" in out
    assert "entries" in out


def test_a_transform_is_made_shown_and_removed(
    run: Run, gateway: FakeGateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "local_helper.py").write_text("def up(data):\n    return data.upper()\n")
    (tmp_path / "etl.py").write_text("import local_helper\n\ndef loud(data):\n    return local_helper.up(data)\n")
    assert run("etl", "init", "etl.py:loud", "--bytes", "--cache", "never", "--requirement", "six==1.17.0") == 0
    uuid = capsys.readouterr().out.strip()
    assert list(gateway.packages) == [uuid]
    assert uuid.startswith("loud-")
    assert "cache=never" in gateway.requests[0][1]
    assert b"six==1.17.0" in gateway.packages[uuid]
    assert run("etl", "init", "etl.py:loud", "--name", "other", "--on-error", "skip", "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "other"
    for words in (["ls"], ["show", "loud"], ["stats", "loud"], ["logs", "loud", "--tail", "7"]):
        assert run("etl", *words) == 0
    out = capsys.readouterr().out
    assert uuid in out
    assert "samples_in" in out
    assert "last 7 lines" in out
    assert run("etl", "rm", "loud") == 0
    assert uuid not in gateway.packages


def test_what_a_transforms_results_depend_on_is_shown(
    run: Run, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.packages["loud-0"] = b""
    gateway.facts = {"generation": "00ff", "environment": {"python": "3.11.7"}, "is_random": True, "is_unstable": False}
    assert run("etl", "show", "loud-0") == 0
    shown = capsys.readouterr()
    for pair in ("generation", "00ff"), ("environment.python", "3.11.7"), ("is_random", "True"):
        assert any(line.split() == list(pair) for line in shown.out.splitlines()), pair
    assert shown.err == ""


def test_results_that_another_run_would_not_repeat_are_not_shown_without_a_warning(
    run: Run, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.packages["loud-0"] = b""
    gateway.facts = {"is_unstable": True}
    assert run("etl", "show", "loud-0") == 0
    shown = capsys.readouterr()
    assert "warning: a sample gave other bytes" in shown.err
    assert "warning" not in shown.out


def test_samples_that_were_left_out_for_a_passing_cause_are_warned_of(
    run: Run, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.packages["loud-0"] = b""
    gateway.stats = {"samples_in": 9, "samples_gaps": 0, "samples_random": 9, "samples_unstable": 0}
    assert run("etl", "stats", "loud-0") == 0
    shown = capsys.readouterr()
    assert "samples_random" in shown.out
    assert shown.err == ""
    gateway.stats["samples_gaps"] = 2
    assert run("etl", "stats", "loud-0", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == gateway.stats
    assert "because a worker died: 2" in shown.err
    assert "shardgate etl logs loud-0" in shown.err


def test_what_a_user_wants_of_pods_is_asked_for(run: Run, gateway: FakeGateway, tmp_path: Path) -> None:
    (tmp_path / "etl.py").write_text("def same(sample):\n    return sample\n")
    words = (
        "--cpu 500m --memory 4Gi --gpus 1 --replicas 0-8 --node-selector pool=gpu --tolerate gpu:NoSchedule "
        "--tolerate team=vision --env DEPTH=3 --secret team-key --image team/own:1"
    )
    assert run("etl", "init", "etl.py:same", *words.split()) == 0
    asked = parse_qs(urlsplit(gateway.requests[0][1]).query)
    assert {name: json.loads(asked[name][0]) for name in ("resources", "node_selector", "tolerations", "env")} == {
        "resources": {"cpu": "500m", "memory": "4Gi", "nvidia.com/gpu": 1},
        "node_selector": {"pool": "gpu"},
        "tolerations": [
            {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "team", "operator": "Equal", "value": "vision"},
        ],
        "env": {"DEPTH": "3"},
    }
    assert json.loads(asked["secrets"][0]) == ["team-key"]
    assert (asked["max_replicas"], asked["image"]) == (["8"], ["team/own:1"])
    for wrong in (["--replicas", "many"], ["--env", "DEPTH"], ["--node-selector", "=gpu"]):
        assert run("etl", "init", "etl.py:same", *wrong) == 1


def test_prefetch_and_evict_take_braces_and_prefixes(run: Run, gateway: FakeGateway) -> None:
    gateway.objects = {f"gcp://b/x-{i}": b"" for i in range(5)}
    assert run("cache", "prefetch", "gcp://b/x-{0..2}", "gcp://b/y") == 0
    posts = sorted(target for method, target, _ in gateway.requests if method == "POST")
    assert posts == [f"/v1/cache/prefetch?bucket=b&provider=gcp&object={name}" for name in ("x-0", "x-1", "x-2", "y")]
    gateway.requests.clear()
    assert run("cache", "evict", "--prefix", "gcp://b/x-") == 0
    assert sum(method == "POST" for method, _, _ in gateway.requests) == 5


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("get", "gcp://b/nothing"), 4, "gcp://b/nothing is not there"),
        (("head", "gcp://b/nothing"), 4, "404"),
        (
            ("ls", "gcp://b", "--endpoint", "http://127.0.0.1:1"),
            3,
            "is `shardgate serve` running at http://127.0.0.1:1?",
        ),
        (("get", "gcp://b"), 1, "gcp://b is a bucket, and this needs an object"),
        (("rm", "gcp://b/"), 1, "`shardgate ls gcp://b` lists them"),
        (("get", "gcp://b/x-*"), 4, "no object of gcp://b matches x-*"),
        (("get", "gcp://b/[z-a]"), 1, "is not a pattern"),
        (("ls", "bucket"), 1, "gcp://bucket/key"),
        (("ls", "ftp://bucket"), 1, "unknown provider"),
        (("put", "no-such-file", "gcp://b/k"), 1, "error: no-such-file: No such file"),
        (("get", "gcp://b/k", "no-such-folder/k"), 1, "error: no-such-folder: there is no such folder"),
        (("etl", "init", "nothing.py:f"), 1, "FILE:FUNCTION"),
        (("etl", "show", "nothing"), 4, "no transform nothing"),
        (("cache", "prefetch", "gcp://b/{1..1000000000}"), 1, "more than 1,000,000"),
        (("get",), 2, "Missing argument"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_failures_are_one_message_and_an_exit_code(
    run: Run, gateway: FakeGateway, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    gateway.objects["gcp://b/k"] = b""
    assert run(*words) == code
    printed = capsys.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_serve_hands_all_its_flags_to_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    handed: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: handed.append(words))
    monkeypatch.setattr(sys, "argv", ["shardgate", "serve", "--port", "0", "--bucket", "gcp://b=./data", "--help"])
    with pytest.raises(SystemExit) as caught:
        app()
    assert not caught.value.code
    assert handed == [
        [sys.executable, "-m", "shardgate_gateway", "--port", "0", "--bucket", "gcp://b=./data", "--help"]
    ]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shardgate.extras.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["shardgate", "serve"])
    with pytest.raises(SystemExit) as caught:
        app()
    assert caught.value.code == 1
    assert "pip install 'shardgate[gateway]'" in capsys.readouterr().err
