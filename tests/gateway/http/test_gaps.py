"""Samples that a result lacks for a cause that may pass: such a result is never kept, and its readers are told."""

from __future__ import annotations

import asyncio
import http.client
import io
import tarfile
import urllib.request
import warnings
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import urllib3
from container_server import command
from gateway_process import GatewayProcess, running_gateway
from readers import curl, webdataset_samples
from shards import shard

from shardgate import WDTransform
from shardgate.chunks import WholeResponse, gaps_of
from shardgate.notices import ResultWarning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUCKET = "gcp://data"
SAMPLES = 60


def short_of_memory(sample: dict[str, Any]) -> dict[str, Any]:
    if sample["__key__"] == "000040":
        raise MemoryError
    return sample


def swap(sample: dict[str, Any]) -> dict[str, Any]:
    sample["bin"] = sample["bin"][::-1]
    return sample


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gaps")
    (folder / "data").mkdir()
    (folder / "data" / "a.tar").write_bytes(shard(SAMPLES, size=3_000))
    with running_gateway(folder / "gateway", {BUCKET: folder / "data"}, workers=2, settings={"etl.workers": 1}) as run:
        yield run


def lacking(gateway: GatewayProcess, **how: Any) -> WDTransform:
    return WDTransform(gateway.client, short_of_memory, wd_decoder="", on_error="skip", **how)


def url_of(gateway: GatewayProcess, transform: WDTransform, **query: int) -> str:
    return gateway.client.object_url(BUCKET, "a.tar", transform_id=transform.uuid, **query)


def told(url: str) -> tuple[int, int]:
    """Samples of a result, and how many of them the gateway says are missing."""
    kind = http.client.HTTPConnection
    place = urllib3.util.parse_url(url)
    connection = kind(place.host or "", place.port)
    connection.response_class = WholeResponse
    connection.request("GET", place.request_uri)
    answer = connection.getresponse()
    body = answer.read()
    gaps = gaps_of(answer)
    connection.close()
    return len({name.partition(".")[0] for name in tarfile.open(fileobj=io.BytesIO(body)).getnames()}), gaps


def kept_results(gateway: GatewayProcess) -> int:
    return len([path for path in (gateway.cache / "entries").rglob("*") if path.is_file()]) - 1


@pytest.mark.parametrize("policy", ["never", "auto", "always"])
def test_a_reader_is_told_of_gaps_whatever_way_the_result_takes(gateway: GatewayProcess, policy: str) -> None:
    url = url_of(gateway, lacking(gateway, cache=policy), epoch=1)
    for _ in range(3):
        assert told(url) == (SAMPLES - 1, 1)


@pytest.mark.parametrize("first", ["never", "auto", "always"])
def test_no_stage_makes_a_result_for_good_of_one_with_gaps(gateway: GatewayProcess, first: str) -> None:
    pipeline = lacking(gateway, cache=first) >> WDTransform(gateway.client, swap, wd_decoder="", cache="auto")
    before = kept_results(gateway)
    url = gateway.client.object_url(BUCKET, "a.tar", transform_id=pipeline.uuid)
    for _ in range(2):
        assert told(url) == (SAMPLES - 1, 1)
    assert kept_results(gateway) == before


def test_a_container_makes_nothing_for_good_of_what_may_have_gaps(gateway: GatewayProcess, tmp_path: Path) -> None:
    box = gateway.client.etl_from_image(command=command(tmp_path), name="turn", cache="always")
    before = kept_results(gateway)
    body = (lacking(gateway, cache="never") >> box).get(BUCKET, "a.tar")
    assert len(body) > SAMPLES
    assert kept_results(gateway) == before


def test_every_client_takes_a_body_that_tells_of_gaps_behind_its_end(gateway: GatewayProcess) -> None:
    url = url_of(gateway, lacking(gateway, cache="never"))

    async def by_aiohttp() -> bytes:
        async with aiohttp.ClientSession() as session:
            bodies = []
            for _ in range(2):  # the second on the same connection: nothing of the first is left in it
                async with session.get(url) as answer:
                    bodies.append(await answer.read())
            assert bodies[0] == bodies[1]
            return bodies[0]

    with urllib3.PoolManager() as pool:
        by_urllib3 = [pool.request("GET", url).data for _ in range(2)]
        in_chunks = [b"".join(pool.request("GET", url, preload_content=False).stream()) for _ in range(2)]
    with urllib.request.urlopen(url) as answer:
        by_urllib = answer.read()
    by_curl = curl(url)
    assert by_curl.exit == 0
    bodies = {by_curl.body, by_urllib, *by_urllib3, *in_chunks, asyncio.run(by_aiohttp())}
    assert len(bodies) == 1
    assert len(list(webdataset_samples(url))) == SAMPLES - 1


@pytest.mark.parametrize("policy", ["never", "always"])
def test_our_client_warns_of_gaps(gateway: GatewayProcess, policy: str) -> None:
    transform = lacking(gateway, cache=policy)
    with pytest.warns(ResultWarning, match="lacks 1 samples"):
        transform.get(BUCKET, "a.tar", seed=7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WDTransform(gateway.client, swap, wd_decoder="", cache=policy).get(BUCKET, "a.tar")
