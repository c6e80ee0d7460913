"""`shardgate etl init | check | ls | show | start | stop | stats | logs | rm`."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import Annotated, Any

import typer

from shardgate import wire  # noqa: TC001 - typer reads annotations
from shardgate.capture import load_function
from shardgate.cli.options import AsJson, Endpoint, Token, TransformArgument  # noqa: TC001
from shardgate.cli.output import print_json, print_pairs, print_table, print_warning
from shardgate.cli.pods import (
    Cpu,
    Env,
    Gpus,
    Memory,
    NodeSelector,
    Replicas,
    Secret,
    Tolerate,
    pod_options,
)
from shardgate.cli.units import time_text
from shardgate.client import Client
from shardgate.errors import CaptureError
from shardgate.progress import told
from shardgate.stability import compare
from shardgate.transform import BytesTransform, Transform, WDTransform

etl = typer.Typer(no_args_is_help=True, help="Transforms: functions of yours that run where the shards are.")


@etl.command()
def init(
    function: Annotated[
        str, typer.Argument(metavar="FILE:FUNCTION", help="A function, or a class with setup().", show_default=False)
    ] = "",
    *,
    image: Annotated[
        str, typer.Option(help="Instead: a program that speaks HTTP, from an image; with a function: where it runs.")
    ] = "",
    command: Annotated[str, typer.Option(help="Its command line; without a cluster, this is what runs.")] = "",
    spec: Annotated[Path | None, typer.Option(help="Instead: a pod template, YAML or JSON.", dir_okay=False)] = None,
    port: Annotated[int | None, typer.Option(help="Where the program listens; 8000.", show_default=False)] = None,
    health: Annotated[
        str | None, typer.Option(help="Answers 2xx when it is ready; /health.", show_default=False)
    ] = None,
    method: Annotated[wire.ContainerMethod, typer.Option(help="It gets objects (put), or their URLs.")] = "put",
    content_type: Annotated[str, typer.Option(help="Of its results.")] = "application/octet-stream",
    name: Annotated[str, typer.Option(help="The function's own by default.", show_default=False)] = "",
    of_bytes: Annotated[bool, typer.Option("--bytes", metavar="", help="It maps whole objects, not samples.")] = False,
    decoder: Annotated[str, typer.Option(help="How samples are decoded; empty leaves bytes.")] = "pil",
    on_error: Annotated[wire.OnError, typer.Option(help="What a failing sample does.")] = "fail",
    sample_timeout: Annotated[float, typer.Option(help="Seconds one sample may take; 0 is no limit.")] = 0,
    cache: Annotated[wire.CachePolicy, typer.Option(help="Whether results are kept.")] = "auto",
    workers: Annotated[int, typer.Option(help="Worker processes; 0 leaves it to the gateway.")] = 0,
    requirement: Annotated[list[str] | None, typer.Option(help="Beside those found, like torch==2.6.0.")] = None,
    cpu: Cpu = "",
    memory: Memory = "",
    gpus: Gpus = 0,
    replicas: Replicas = "",
    node_selector: NodeSelector = None,
    tolerate: Tolerate = None,
    env: Env = None,
    secret: Secret = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", metavar="", help="Say how its start goes.")] = False,
    as_json: AsJson = False,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Register a transform, start its workers, and print its id."""
    client, needs = Client(endpoint, token), requirement or ()
    pods = pod_options(cpu, memory, gpus, replicas, node_selector, tolerate, env, secret)
    if function and image:
        pods["image"], image = image, ""
    if bool(function) + bool(image or (command and not spec)) + bool(spec) != 1:
        raise typer.BadParameter("give FILE:FUNCTION, or --image and --command, or --spec")
    how: dict[str, Any] = {
        "method": method,
        "content_type": content_type,
        "verbose": verbose,
        "cache": cache,
        "workers": workers,
    }
    how |= {key: value for key, value in (("port", port), ("health", health)) if value is not None}
    how |= pods
    transform: Transform
    if spec:
        transform = client.etl_from_spec(spec, name, **how)
    elif not function:
        transform = client.etl_from_image(image, name, command=shlex.split(command), **how)
    elif of_bytes:
        transform = BytesTransform(
            client, load_function(function), name, verbose, cache=cache, workers=workers, requirements=needs, **pods
        )
    else:
        transform = WDTransform(
            client,
            load_function(function),
            name,
            decoder,
            verbose,
            on_error=on_error,
            sample_timeout=sample_timeout,
            cache=cache,
            workers=workers,
            requirements=needs,
            **pods,
        )
    if as_json:
        print_json({"id": transform.uuid, "name": transform.name})
    else:
        typer.echo(transform.uuid)


@etl.command()
def check(
    function: Annotated[str, typer.Argument(metavar="FILE:FUNCTION", help="As for `init`.")], *, as_json: AsJson = False
) -> None:
    """Say whether a function has the same id in every process. It is captured in two, and nothing is registered."""
    comparison = compare(function)
    if as_json:
        print_json({"stable": comparison.is_stable, "ids": comparison.ids, "difference": comparison.difference})
    elif comparison.is_stable:
        typer.echo(f"{comparison.ids[0]} in each process")
    if not comparison.is_stable:
        raise CaptureError(
            f"{' and '.join(comparison.ids)} are one code in two processes. They differ in {comparison.difference}",
            hint="make that value in setup(), or so that it does not depend on chance, the clock or the hash order",
        )


@etl.command()
def ls(*, as_json: AsJson = False, endpoint: Endpoint = None, token: Token = None) -> None:
    """List transforms, the newest first."""
    transforms = Client(endpoint, token).transforms.list()
    if as_json:
        print_json(transforms)
    else:
        rows = ([t["id"], t["state"], time_text(t["created_at"])] for t in transforms)
        print_table(["ID", "STATE", "CREATED"], rows)


@etl.command()
def show(
    transform_id: TransformArgument, *, as_json: AsJson = False, endpoint: Endpoint = None, token: Token = None
) -> None:
    """Say what a transform is, what its results depend on, and how its workers are."""
    record = Client(endpoint, token).transforms.show(transform_id)
    (print_json if as_json else print_pairs)(record)
    if record.get("is_unstable"):
        print_warning(
            "a sample gave other bytes when it was run again, so results have weak ETags",
            f"`shardgate etl logs {transform_id}` names the sample; it may depend on args, seed and epoch alone",
        )


@etl.command()
def stats(
    transform_id: TransformArgument, *, as_json: AsJson = False, endpoint: Endpoint = None, token: Token = None
) -> None:
    """Samples, bytes and seconds by phase, summed over all requests."""
    counters = Client(endpoint, token).transforms.stats(transform_id)
    (print_json if as_json else print_pairs)(counters)
    if (count := counters.get("samples_in")) and counters.get("samples_out") == 0:
        print_warning(
            f"nothing came of any of {count} samples",
            "was `return sample` forgotten in the function? "
            f"`shardgate etl logs {transform_id}` says which were left out for an error",
        )
    if gaps := counters.get("samples_gaps"):
        print_warning(
            f"samples left out for want of time or memory, or because a worker died: {gaps}",
            f"`shardgate etl logs {transform_id}` names them; raise sample_timeout or the workers' memory",
        )


@etl.command()
def logs(
    transform_id: TransformArgument,
    *,
    tail: Annotated[int, typer.Option(min=1, help="Lines from the end.")] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", metavar="", help="Go on printing what they write.")] = False,
    endpoint: Endpoint = None,
    token: Token = None,
) -> None:
    """Print what a transform's workers wrote."""
    transforms = Client(endpoint, token).transforms
    if follow:
        with suppress(KeyboardInterrupt):
            for part in transforms.follow(transform_id, tail=tail):
                typer.echo(part, nl=False)
    else:
        typer.echo(transforms.logs(transform_id, tail=tail), nl=False)


@etl.command()
def start(transform_id: TransformArgument, *, endpoint: Endpoint = None, token: Token = None) -> None:
    """Start a transform's workers, and wait until they are ready."""
    transforms = Client(endpoint, token).transforms
    with told(transforms, transform_id):
        transforms.start(transform_id)


@etl.command()
def stop(transform_id: TransformArgument, *, endpoint: Endpoint = None, token: Token = None) -> None:
    """Stop a transform's workers, until somebody starts them again."""
    Client(endpoint, token).transforms.stop(transform_id)


@etl.command()
def rm(transform_id: TransformArgument, *, endpoint: Endpoint = None, token: Token = None) -> None:
    """Stop a transform's workers and forget it."""
    Client(endpoint, token).transforms.delete(transform_id)
