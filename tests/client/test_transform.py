"""WDTransform registers, starts, and says so in the document's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shardgate import BytesTransform, CaptureError, Client, TransformFailed, WDTransform, wire

if TYPE_CHECKING:
    from fake_gateway import FakeGateway


def wd_transform(sample: dict[str, Any]) -> dict[str, Any]:
    sample["n"] = 1
    return sample


def test_the_document_call_prints_the_documents_lines(
    client: Client, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    etl = WDTransform(client, wd_transform, transform_name="imagenet-train", verbose=True)
    assert capsys.readouterr().out == "Initializing ETL...\nETL imagenet-train successfully initialized\n"
    assert etl.name == "imagenet-train"
    assert etl.uuid == wire.transform_id("imagenet-train", gateway.packages[etl.uuid])
    assert [method for method, _, _ in gateway.requests] == ["POST", "POST"]
    assert gateway.requests[0][1] == "/v1/transforms?cache=auto&workers=0"
    assert gateway.requests[1][1] == f"/v1/transforms/{etl.uuid}/start"


def test_the_positional_order_is_that_of_old(client: Client, gateway: FakeGateway) -> None:
    etl = WDTransform(client, wd_transform, "old-order", "rgb", False)
    assert (etl.manifest.name, etl.manifest.decoder, etl.manifest.kind) == ("old-order", "rgb", "sample")
    manifest, _ = wire.unpack_package(gateway.packages[etl.uuid])
    assert manifest == etl.manifest


def test_the_same_code_is_the_same_transform(client: Client, gateway: FakeGateway) -> None:
    first, second = (WDTransform(client, wd_transform) for _ in range(2))
    assert first.uuid == second.uuid
    assert first.name == "wd-transform"
    other = WDTransform(client, wd_transform, on_error="skip", sample_timeout=5)
    assert other.uuid != first.uuid
    assert len(gateway.packages) == 2


def test_bytes_transforms_are_of_their_kind(client: Client) -> None:
    etl = BytesTransform(client, bytes.upper, "upper", cache="never")
    assert (etl.manifest.kind, etl.manifest.decoder) == ("bytes", "")


def test_what_kept_the_workers_from_starting_is_raised_with_its_hint(client: Client, gateway: FakeGateway) -> None:
    gateway.start_error = {
        "code": "transform_start_failed",
        "message": "the function needs nosuch==1, not installed where the workers run",
        "hint": "install it there: pip install nosuch==1",
        "request_id": "r-9",
    }
    with pytest.raises(TransformFailed, match="needs nosuch==1") as caught:
        WDTransform(client, wd_transform)
    assert "pip install nosuch==1" in str(caught.value)
    assert (caught.value.code, caught.value.status, caught.value.request_id) == ("transform_start_failed", 422, "r-9")


def test_what_cannot_be_sent_is_refused_before_anything_is_said(
    client: Client, gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    file = (n for n in ())
    with pytest.raises(CaptureError, match="closure variable `file`"):
        WDTransform(client, lambda sample: file, verbose=True)
    assert gateway.requests == []
    assert capsys.readouterr().out == ""


def test_a_transform_gets_logs_stats_and_goes(client: Client, gateway: FakeGateway) -> None:
    gateway.objects["gcp://b/k"] = b"result"
    etl = WDTransform(client, wd_transform)
    assert etl.get("gcp://b", "k", epoch=2) == b"result"
    assert gateway.requests[-1][1] == f"/v1/objects/b/k?provider=gcp&transform_id={etl.uuid}&epoch=2"
    assert etl.logs(tail=3).startswith("last 3 lines")
    assert etl.stats() == {"samples_in": 3}
    assert client.transforms.show(etl.name)["id"] == etl.uuid
    assert client.transforms.package(etl.uuid) == gateway.packages[etl.uuid]
    assert [record["id"] for record in client.transforms.list()] == [etl.uuid]
    etl.delete()
    assert gateway.packages == {}
