"""Versions of a name that were replaced end soon: a notebook makes one each time a cell runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway_process import alive, eventually, running_gateway
from shards import shard

from shardgate import WDTransform

if TYPE_CHECKING:
    from pathlib import Path

BUCKET = "gcp://data"
VERSIONS = 4


def version(number: int) -> Any:
    """What a cell makes of an edited function."""

    def edited(sample: dict[str, Any]) -> dict[str, Any]:
        return sample | {"txt": str(number)}

    return edited


def test_replaced_versions_of_a_name_end_soon_and_the_newest_stays(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tar").write_bytes(shard(3))
    settings = {"etl.workers": 1, "etl.superseded_idle_seconds": 0.5}
    with running_gateway(tmp_path, {BUCKET: tmp_path / "data"}, workers=2, settings=settings) as gateway:

        def read(id: str) -> bytes:  # noqa: A002
            body: bytes = gateway.client.get(BUCKET, "a.tar", transform_id=id)
            return body

        made = [WDTransform(gateway.client, version(number), "cell", "", cache="never") for number in range(VERSIONS)]
        bodies = [read(etl.uuid) for etl in made]
        for number in range(VERSIONS):  # as cells are run again: each registers, and reads
            made[number] = WDTransform(gateway.client, version(number), "cell", "", cache="never")
            assert read(made[number].uuid) == bodies[number]
        eventually(lambda: len(gateway.runtimes()) == 1, what="the end of the runtimes of older versions")
        newest = gateway.runtimes()
        assert read(made[0].uuid) == bodies[0], "an older version can still be read by its id"
        eventually(lambda: gateway.runtimes() == newest, what="its end")

        WDTransform(gateway.client, version(0), "cell", "", cache="never")
        assert read("cell") == bodies[0], "the name means the old version again"
        eventually(lambda: not alive(newest[0]), what="the end of the one that was newest")
        (stays,) = gateway.runtimes()
        assert read(made[1].uuid) == bodies[1]
        eventually(lambda: gateway.runtimes() == [stays], what="the end of another old one, while this one stays")
