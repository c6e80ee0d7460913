"""What Prometheus gets of a real gateway: complete, by conventional names, and with few label values."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gateway_process import GatewayProcess, eventually, running_gateway
from prometheus_client.parser import text_string_to_metric_families
from readers import curl
from shards import shard

from shardgate import WDTransform
from shardgate_gateway import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")
UNITS = ("_seconds", "_bytes", "_ratio", "_total", "_info")
SAMPLES = 5


def same(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("metrics")
    for name in ("data", "other"):
        (folder / name).mkdir()
    (folder / "data" / "small").write_bytes(b"small")
    (folder / "data" / "a.tar").write_bytes(shard(SAMPLES))
    down = "s3://b?endpoint=http://127.0.0.1:1&region=r&access_key_id=i&secret_access_key=s"
    buckets = {"gcp://data": folder / "data", "gcp://other": folder / "other", "aws://down": down}
    settings = {"upstream.attempts": 1, "upstream.progress_timeout": 1, "etl.workers": 1, "cache.capacity_bytes": "1GB"}
    with running_gateway(folder / "g", buckets, workers=2, settings=settings) as running:
        for _ in range(20):
            assert curl(running.url("gcp://data", "small")).body == b"small"
        for number in range(30):
            assert curl(f"{running.endpoint}/v1/objects/nobody-{number}/key-{number}").status == 404
        assert curl(running.url("gcp://other", "absent")).status == 404
        assert curl(running.url("aws://down", "k")).status >= 500
        etl = WDTransform(running.client, same, "keep", "", cache="never")
        running.client.get("gcp://data", "a.tar", transform_id=etl.uuid)
        yield running


def text(gateway: GatewayProcess) -> str:
    return curl(f"{gateway.endpoint}/metrics").body.decode()


def value(gateway: GatewayProcess, name: str, **labels: str) -> float:
    """The sum over all samples of this name with these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text(gateway))
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_names_are_those_that_prometheus_has_rules_for(gateway: GatewayProcess) -> None:
    families = list(text_string_to_metric_families(text(gateway)))
    assert len(families) > 25
    for family in families:
        assert re.fullmatch(r"(shardgate|process)(_[a-z0-9]+)+", family.name), family.name
        assert family.documentation.endswith("."), f"{family.name} is described by a sentence"
        assert not re.search(r"_(counter|gauge|histogram|summary|count|sum|bucket|ms|milliseconds|kb|mb)$", family.name)
        assert (family.type == "counter") == all(s.name.endswith("_total") for s in family.samples), family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds"), family.name
        for sample in family.samples:
            assert all(re.fullmatch("[a-z]+", label) for label in sample.labels), sample


@pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed, nor named by PROMTOOL")
def test_promtool_finds_nothing_to_lint(gateway: GatewayProcess) -> None:
    command = [str(PROMTOOL), "check", "metrics"]
    done = subprocess.run(command, input=text(gateway), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_cache_is_told_as_it_is(gateway: GatewayProcess) -> None:
    eventually(lambda: value(gateway, "shardgate_cache_entries") >= 2)
    assert value(gateway, "shardgate_cache_capacity_bytes") == 10**9
    assert 0 < value(gateway, "shardgate_cache_used_bytes") < 10**6
    assert value(gateway, "shardgate_cache_writable") == 1
    for name in ("evictions", "evicted_bytes", "damaged_entries", "bypasses"):
        assert f"shardgate_cache_{name}_total 0" in text(gateway)


def test_what_is_read_and_asked_of_stores_is_told_by_bucket(gateway: GatewayProcess) -> None:
    eventually(lambda: value(gateway, "shardgate_reads_total", bucket="gcp://data", cache="hit") >= 10)
    assert value(gateway, "shardgate_http_sent_bytes_total", bucket="gcp://data") >= 20 * len(b"small")
    assert value(gateway, "shardgate_upstream_requests_total", bucket="gcp://data", operation="get") >= 2
    received = value(gateway, "shardgate_upstream_received_bytes_total", bucket="gcp://data")
    assert received >= len(b"small") + len(shard(SAMPLES))
    count = "shardgate_upstream_request_duration_seconds_count"
    assert value(gateway, count, bucket="aws://down", operation="get") >= 1
    assert value(gateway, "shardgate_upstream_errors_total", bucket="aws://down", code="upstream_unavailable") >= 1
    assert value(gateway, "shardgate_upstream_errors_total", bucket="gcp://other") == 0, "what is not there is no error"


def test_no_name_that_a_reader_makes_up_becomes_a_label(gateway: GatewayProcess) -> None:
    said = text(gateway)
    assert "nobody-" not in said
    assert "key-" not in said
    buckets = {
        sample.labels["bucket"]
        for family in text_string_to_metric_families(said)
        for sample in family.samples
        if "bucket" in sample.labels
    }
    assert buckets <= {"gcp://data", "gcp://other", "aws://down"}


def test_transforms_have_a_bounded_number_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_transforms", set())
    labels = {metrics.transform_label(f"name-{number}-0123456789abcdef") for number in range(1000)}
    assert len(labels) == metrics.MAX_TRANSFORMS + 1
    assert metrics.transform_label("name-0-fedcba9876543210") == "name-0"


def test_work_of_transforms_is_told_by_their_name(gateway: GatewayProcess) -> None:
    eventually(lambda: value(gateway, "shardgate_etl_jobs_total", transform="keep", outcome="completed") == 1)
    assert value(gateway, "shardgate_etl_samples_total", transform="keep") == SAMPLES
    assert value(gateway, "shardgate_etl_queue_duration_seconds_count", transform="keep") >= 1


def test_the_latency_histogram_has_the_answers_from_memory_too(gateway: GatewayProcess) -> None:
    asked = "shardgate_http_requests_total"
    timed = "shardgate_http_request_duration_seconds_count"
    eventually(lambda: value(gateway, asked, route="objects") == value(gateway, timed, route="objects") > 20)
    assert value(gateway, "shardgate_http_fast_total") > 0


async def test_answers_from_memory_are_added_up_with_the_time_that_they_took() -> None:
    seconds = metrics.DURATION.labels("objects")
    before = seconds._sum.get(), seconds._buckets[0].get()
    metrics.observe_fast(seconds, 3, 0.0006)
    assert seconds._sum.get() - before[0] == pytest.approx(0.0006)
    assert seconds._buckets[0].get() - before[1] == 3


def test_the_program_and_its_processes_are_told(gateway: GatewayProcess) -> None:
    said = text(gateway)
    assert re.search(r'^shardgate_build_info\{python="3\.\d+\.\d+\S*",version="\d\S*"\} 1\.0$', said, re.MULTILINE)
    assert value(gateway, "shardgate_workers") == 2
    assert value(gateway, "process_resident_memory_bytes") > 50e6
    assert value(gateway, "process_open_fds") > 20
    before = value(gateway, "process_cpu_seconds_total")
    assert before > 0.1
    os.kill(gateway.workers()[0], 9)
    eventually(lambda: value(gateway, "shardgate_workers") == 2)
    assert value(gateway, "process_cpu_seconds_total") >= before, "what ended workers used stays counted"
    born = Path(f"/proc/{gateway.tree()[0]}").stat().st_mtime
    assert abs(value(gateway, "process_start_time_seconds") - born) < 60
