"""`python -m shardgate_gateway`, which is `shardgate serve`: flags become settings, and the supervisor runs them."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import Annotated, Any

import typer

from shardgate_gateway import supervisor
from shardgate_gateway.errors import GatewayError
from shardgate_gateway.settings import load, parse_bucket

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def serve(
    *,
    bucket: Annotated[
        list[str] | None, typer.Option(metavar="PROVIDER://NAME=WHERE", help="Serve this bucket; may be given again.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="51080; 0 picks a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Gateway processes; 1.")] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder of the cache.")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="Folder of the registry and of the packages.")] = None,
    token: Annotated[
        str | None, typer.Option(help="Bearer token to demand; none. Better in SHARDGATE_SERVE__TOKEN.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings; see docs/settings.md.")] = None,
) -> None:
    """Serve buckets over HTTP, cached, and transformed where that is asked for."""
    flags: dict[str, dict[str, Any]] = {
        "serve": _given(host=host, port=port, workers=workers, token=token),
        "cache": _given(dir=cache_dir),
        "state": _given(dir=state_dir),
    }
    try:
        named = [parse_bucket(text) for text in bucket or []]
        flags["buckets"] = {name: parsed.model_dump(exclude_unset=True) for name, parsed in named}
        status = supervisor.run(load(config, flags), config)
    except GatewayError as error:
        print(f"shardgate: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        raise typer.Exit(2) from error
    raise typer.Exit(status)


def _given(**flags: Any) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


if __name__ == "__main__":
    app(prog_name="shardgate serve")
