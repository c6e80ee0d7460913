"""`shardgate ls | get | put | head | rm`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, BinaryIO, cast

import typer

from shardgate.cli.names import STDIO, files_for, is_object, last_parts, listing, objects_of, one_object
from shardgate.cli.options import AsJson, Endpoint, ObjectArgument, Objects, Token  # noqa: TC001 - typer reads annotations
from shardgate.cli.output import byte_bar, print_json, print_pairs, print_table
from shardgate.cli.units import size_text, time_text
from shardgate.client import Client
from shardgate.download import CHUNK
from shardgate.urls import ObjectName

if TYPE_CHECKING:
    from collections.abc import Callable

TransformOption = Annotated[str | None, typer.Option("--transform", help="Id or name: get the transformed object.")]


def ls(
    where: Annotated[str | None, typer.Argument(metavar="PROVIDER://BUCKET[/PREFIX]", show_default=False)] = None,
    *,
    as_json: AsJson = False,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """List buckets, or the objects of one whose names begin with PREFIX. With * ? [] {} they match it."""
    client = Client(endpoint, token)
    if where is None:
        buckets = client.buckets()
        if as_json:
            print_json(buckets)
        else:
            print_table(["BUCKET", "FRESHNESS"], ([b["bucket"], b["freshness"]] for b in buckets["buckets"]))
        return
    bucket, prefix = ObjectName.parse(where)
    objects = listing(client, bucket, prefix)
    if as_json:
        print_json([asdict(info) for info in objects])
    else:
        rows = ([size_text(info.size), time_text(info.last_modified), info.name] for info in objects)
        print_table(["SIZE", "MODIFIED", "NAME"], rows)


def get(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="OBJECT", help="PROVIDER://BUCKET/NAME; * ? [] {} name many. Last may be FILE, FOLDER or -"
        ),
    ],
    *,
    transform: TransformOption = None,
    args: Annotated[str | None, typer.Option(help="Arguments for the transform.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the transform's randomness.")] = None,
    epoch: Annotated[int | None, typer.Option(help="Epoch of the transform's randomness.")] = None,
    archpath: Annotated[str | None, typer.Option(help="Only this member of the tar.")] = None,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Get objects, raw or transformed: get OBJECT... [FILE | FOLDER | -]. A file appears only when it is whole.

    As with cp, several objects need a folder that exists, which is this one by default; - is stdout.
    """
    destination = words.pop() if len(words) > 1 and not is_object(words[-1]) else None
    client = Client(endpoint, token)
    names = objects_of(client, words)
    options: dict[str, Any] = {
        "args": args,
        "seed": seed,
        "epoch": epoch,
        "archpath": archpath,
        "transform_id": transform,
    }
    if destination == STDIO:
        for bucket, key in names:
            _pour(client, bucket, key, options)
        return
    # With one name and one member, the member names the file.
    paths = files_for([archpath] if archpath and len(names) == 1 else [key for _, key in names], destination)
    for (bucket, key), path in zip(names, paths, strict=True):
        with byte_bar(path.name, None) as progress:
            size = client.download(bucket, key, path, progress=progress, **options)
        typer.echo(f"{path}: {size_text(size)}", err=True)


def put(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="- is stdin.")],
    destination: Annotated[
        str, typer.Argument(metavar="OBJECT", help="PROVIDER://BUCKET/NAME; a / at the end, or no NAME, is a folder.")
    ],
    *,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Store files as objects, each whole or not at all: put FILE... OBJECT. Several need an OBJECT that ends with /.

    A name that ends with / gets the file's name.
    """
    client, (bucket, key) = Client(endpoint, token), ObjectName.parse(destination)
    is_folder = not key or key.endswith("/")
    if len(files) > 1 and (STDIO in files or not is_folder):
        raise typer.BadParameter(
            f"several files need an OBJECT that ends with /, like {destination}/; stdin goes alone"
        )
    if files == [STDIO]:
        client.put(*one_object(destination), cast("BinaryIO", sys.stdin.buffer))
        return
    keys = [key + part for part in last_parts(files)] if is_folder else [key]
    for file, target in zip(files, keys, strict=True):
        size = _put(client, Path(file), ObjectName(bucket, target))
        typer.echo(f"{ObjectName(bucket, target)}: {size_text(size)}", err=True)


def head(
    source: ObjectArgument,
    *,
    transform: TransformOption = None,
    as_json: AsJson = False,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Describe an object."""
    bucket, key = one_object(source)
    info = Client(endpoint, token).head(bucket, key, transform_id=transform)
    (print_json if as_json else print_pairs)(asdict(info))


def rm(objects: Objects, *, endpoint: Endpoint = None, token: Token = None) -> None:
    """Delete objects from their bucket."""
    client = Client(endpoint, token)
    names = objects_of(client, objects)
    for bucket, key in names:
        client.delete(bucket, key)
    if len(names) > 1:
        typer.echo(f"{len(names)} objects deleted", err=True)


def _put(client: Client, path: Path, name: ObjectName) -> int:
    size = path.stat().st_size
    with path.open("rb") as file, byte_bar(path.name, size) as progress:
        client.put(*name, cast("BinaryIO", _Watched(file, progress, size)))
    return size


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
