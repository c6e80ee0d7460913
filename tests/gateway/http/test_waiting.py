"""A GET that waits for a worker is answered in time, and its reader comes back to the same place."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from gateway_process import GatewayProcess, eventually, running_gateway
from readers import curl
from shards import shard

from shardgate import WDTransform, wire

if TYPE_CHECKING:
    from pathlib import Path

BUCKET = "gcp://data"
PLACE = wire.PLACE_HEADER.lower()


def hold(sample: dict[str, Any], args: str) -> dict[str, Any]:
    """Say that it began, and wait until it may go on."""
    import time
    from pathlib import Path

    Path(args, "began").touch()
    while not Path(args, "go").exists():
        time.sleep(0.02)
    return sample


def waiting(gateway: GatewayProcess) -> int:
    lines = curl(f"{gateway.endpoint}/metrics").body.decode().splitlines()
    return sum(int(float(line.split()[1])) for line in lines if line.startswith("shardgate_etl_waiting"))


def test_who_waits_too_long_is_sent_away_with_a_note_and_served_when_they_come_back(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tar").write_bytes(shard(3))
    settings = {"etl.workers": 1, "etl.queue_seconds": 0.5}
    with running_gateway(tmp_path, {BUCKET: tmp_path / "data"}, settings=settings) as gateway:
        etl = WDTransform(gateway.client, hold, "hold", "", cache="never")
        url = gateway.url(BUCKET, "a.tar", transform_id=etl.uuid, args=str(tmp_path))
        options = {"transform_id": etl.uuid, "args": str(tmp_path)}
        with ThreadPoolExecutor(3) as pool:
            ours = [pool.submit(gateway.client.get, BUCKET, "a.tar", **options)]
            eventually((tmp_path / "began").exists, what="the job of the one worker")
            refused = curl(url)
            assert (refused.status, json.loads(refused.body)["code"]) == (503, "busy")
            assert int(refused.headers["retry-after"]) <= 2
            place = refused.headers[PLACE]
            again = curl(url, "-H", f"{wire.PLACE_HEADER}: {place}")
            assert (again.status, again.headers[PLACE]) == (503, place), "it is the same place"
            forged = curl(url, "-H", f"{wire.PLACE_HEADER}: 1.0.{place.rpartition('.')[2]}")
            assert float(forged.headers[PLACE].rpartition(".")[0]) >= float(place.rpartition(".")[0])
            ours += [pool.submit(gateway.client.get, BUCKET, "a.tar", **options) for _ in range(2)]
            eventually(lambda: waiting(gateway) == 2, what="our readers in the line")
            (tmp_path / "go").touch()
            bodies = [reader.result() for reader in ours]
        assert bodies[0] == bodies[1] == bodies[2]
