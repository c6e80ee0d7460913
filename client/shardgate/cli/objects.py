"""`shardgate ls | get | put | head | rm`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, BinaryIO, cast

import typer

from shardgate.cli.options import AsJson, Endpoint, ObjectArgument, Token  # noqa: TC001 - typer reads annotations
from shardgate.cli.output import byte_bar, print_json, print_pairs, print_table, size_text
from shardgate.client import Client
from shardgate.download import CHUNK
from shardgate.urls import ObjectName

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

STDIO = "-"

TransformOption = Annotated[str | None, typer.Option("--transform", help="Id or name: get the transformed object.")]


def ls(
    where: Annotated[str | None, typer.Argument(metavar="[PROVIDER://BUCKET[/PREFIX]]")] = None,
    *,
    as_json: AsJson = False,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """List buckets, or the objects of one whose names begin with PREFIX."""
    client = Client(endpoint, token)
    if where is None:
        buckets = client.buckets()
        if as_json:
            print_json(buckets)
        else:
            print_table(["BUCKET", "FRESHNESS"], ([b["bucket"], b["freshness"]] for b in buckets["buckets"]))
        return
    bucket, prefix = ObjectName.parse(where)
    objects = client.list(bucket, prefix)
    if as_json:
        print_json([asdict(info) for info in objects])
    else:
        rows = ([size_text(info.size), _minute(info.last_modified), info.name] for info in objects)
        print_table(["SIZE", "MODIFIED", "NAME"], rows)


def get(
    source: ObjectArgument,
    destination: Annotated[str | None, typer.Argument(metavar="FILE", help="- is stdout.", show_default=False)] = None,
    *,
    transform: TransformOption = None,
    args: Annotated[str | None, typer.Option(help="Arguments for the transform.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the transform's randomness.")] = None,
    epoch: Annotated[int | None, typer.Option(help="Epoch of the transform's randomness.")] = None,
    archpath: Annotated[str | None, typer.Option(help="Only this member of the tar.")] = None,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Get an object, raw or transformed. The file appears only when it is whole."""
    client, (bucket, key) = Client(endpoint, token), ObjectName.parse(source)
    options: dict[str, Any] = {
        "args": args,
        "seed": seed,
        "epoch": epoch,
        "archpath": archpath,
        "transform_id": transform,
    }
    if destination == STDIO:
        _pour(client, bucket, key, options)
        return
    path = Path(destination or (archpath or key).rpartition("/")[2])
    path = path / key.rpartition("/")[2] if path.is_dir() else path
    with byte_bar(path.name, None) as progress:
        size = client.download(bucket, key, path, progress=progress, **options)
    typer.echo(f"{path}: {size_text(size)}", err=True)


def put(
    source: Annotated[str, typer.Argument(metavar="FILE", help="- is stdin.")],
    destination: ObjectArgument,
    *,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Store a file as an object, whole or not at all. A name that ends with / gets the file's name."""
    client, (bucket, key) = Client(endpoint, token), ObjectName.parse(destination)
    if source == STDIO:
        client.put(bucket, key, cast("BinaryIO", sys.stdin.buffer))
        return
    path = Path(source)
    key = key + path.name if not key or key.endswith("/") else key
    size = path.stat().st_size
    with path.open("rb") as file, byte_bar(path.name, size) as progress:
        client.put(bucket, key, cast("BinaryIO", _Watched(file, progress, size)))
    typer.echo(f"{ObjectName(bucket, key)}: {size_text(size)}", err=True)


def head(
    source: ObjectArgument,
    *,
    transform: TransformOption = None,
    as_json: AsJson = False,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Describe an object."""
    bucket, key = ObjectName.parse(source)
    info = Client(endpoint, token).head(bucket, key, transform_id=transform)
    (print_json if as_json else print_pairs)(asdict(info))


def rm(
    sources: Annotated[list[str], typer.Argument(metavar="OBJECT...", help="PROVIDER://BUCKET/NAME")],
    *,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Delete objects from their bucket."""
    client = Client(endpoint, token)
    for bucket, key in map(ObjectName.parse, sources):
        client.delete(bucket, key)


def _minute(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}" if time else ""


def _pour(client: Client, bucket: Any, key: str, options: dict[str, Any]) -> None:
    with client.open(bucket, key, **options) as reader:
        while chunk := reader.read(CHUNK):
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


class _Watched:
    """A file that tells how far it has been read."""

    def __init__(self, file: IO[bytes], progress: Callable[[int, int | None], None], size: int) -> None:
        self._file, self._progress, self._size = file, progress, size
        self.seekable, self.seek, self.tell = file.seekable, file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        chunk = self._file.read(count)
        self._progress(self._file.tell(), self._size)
        return chunk
