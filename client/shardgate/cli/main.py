"""The `shardgate` command.

Exit codes: 0 it is done; 1 it failed; 2 the command line is wrong; 3 no gateway answers; 4 there is no such thing;
130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, TextIO

import typer

import shardgate
from shardgate.cli import objects
from shardgate.cli.cache import cache
from shardgate.cli.etl import etl
from shardgate.cli.output import print_error, print_warning
from shardgate.errors import ShardgateError
from shardgate.extras import require
from shardgate.local_gateway import gateway_command
from shardgate.notices import CaptureWarning, ResultWarning

INTERRUPTED = 130
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

cli = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for command in (objects.ls, objects.get, objects.put, objects.head, objects.rm):
    cli.command()(command)
cli.add_typer(etl, name="etl")
cli.add_typer(cache, name="cache")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shardgate {shardgate.__version__}")
        raise typer.Exit


@cli.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_print_version, is_eager=True, help="Print it, and exit.")
    ] = False,
) -> None:
    """Read shards through the gateway, transformed where the data is."""


@cli.command(context_settings=PASS_ON, add_help_option=False)
def serve(context: typer.Context) -> None:
    """Run a gateway: --host --port --workers --cache-dir --state-dir --bucket PROVIDER://NAME=WHERE --config FILE."""
    require("gateway")
    command = [*gateway_command(), *context.args]
    os.execv(command[0], command)  # noqa: S606 - signals and the exit code are then the gateway's own


@cli.command()
def demo(
    *,
    output: Annotated[Path, typer.Option(help="Folder for shards and pictures.")] = Path("demo-output"),
    samples: Annotated[int, typer.Option(min=8, help="Photographs in the train shard.")] = 1000,
    shards: Annotated[int, typer.Option(min=1, max=100, help="Validation shards.")] = 6,
) -> None:
    """Make shards of photographs, and read them raw and transformed through a gateway of its own."""
    require("demo")
    from shardgate.demo.run import run  # noqa: PLC0415 - it needs torch, which the other commands do not

    run(output, samples=samples, shards=shards)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print ours as the other messages of a command; where in this package they come from says nothing to its user."""
    if issubclass(category, CaptureWarning | ResultWarning):
        print_warning(str(message))
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)


def app() -> None:
    """Run the command line; errors are one message and a hint, never a traceback."""
    warnings.showwarning = _show_warning
    try:
        cli(prog_name="shardgate")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ShardgateError, OSError) as error:
        sys.exit(print_error(error))
