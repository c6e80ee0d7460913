"""`shardgate cache stat | prefetch | evict`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from shardgate.cli.names import objects_of
from shardgate.cli.options import AsJson, Endpoint, Objects, Token  # noqa: TC001 - typer reads annotations
from shardgate.cli.output import count_bar, print_json, print_pairs
from shardgate.client import Client
from shardgate.urls import Bucket, ObjectName

if TYPE_CHECKING:
    from collections.abc import Callable

CONCURRENT = 4

cache = typer.Typer(no_args_is_help=True, help="The gateway's disk cache.")

Prefix: TypeAlias = Annotated[
    bool, typer.Option("--prefix", metavar="", help="Take all objects that begin with OBJECT.")
]


@cache.command()
def stat(*, as_json: AsJson = False, endpoint: Endpoint = None, token: Token = None) -> None:
    """Say what the cache holds."""
    numbers = Client(endpoint, token).cache.stat()
    (print_json if as_json else print_pairs)(numbers)


@cache.command()
def prefetch(objects: Objects, *, prefix: Prefix = False, endpoint: Endpoint = None, token: Token = None) -> None:
    """Fetch objects into the cache."""
    client = Client(endpoint, token)
    _each("prefetch", client.cache.prefetch, _named(client, objects, prefix))


@cache.command()
def evict(objects: Objects, *, prefix: Prefix = False, endpoint: Endpoint = None, token: Token = None) -> None:
    """Drop objects from the cache; their bucket keeps them."""
    client = Client(endpoint, token)
    _each("evict", client.cache.evict, _named(client, objects, prefix))


def _named(client: Client, objects: list[str], prefix: bool) -> list[ObjectName]:
    """The objects that the arguments stand for: listed by prefix, or expanded from braces and wildcards."""
    if not prefix:
        return objects_of(client, objects)
    given = [ObjectName.parse(text) for text in objects]
    return [ObjectName(bucket, info.name) for bucket, start in given for info in client.list(bucket, start)]


def _each(title: str, action: Callable[[Bucket, str], object], names: list[ObjectName]) -> None:
    """Apply to all, a few at a time; the first error ends it."""
    with count_bar(title, len(names)) as done, ThreadPoolExecutor(CONCURRENT) as pool:
        waiting = [pool.submit(action, bucket, key) for bucket, key in names]
        try:
            for finished in as_completed(waiting):
                finished.result()
                done()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    typer.echo(f"{title}: {len(names)} object{'' if len(names) == 1 else 's'}", err=True)
