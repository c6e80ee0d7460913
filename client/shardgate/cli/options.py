"""Options and arguments that several commands share."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

Endpoint: TypeAlias = Annotated[
    str | None, typer.Option("--endpoint", envvar="SHARDGATE_ENDPOINT", help="URL of the gateway.", show_default=False)
]
Token: TypeAlias = Annotated[
    str | None, typer.Option("--token", envvar="SHARDGATE_TOKEN", help="Bearer token.", show_default=False)
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, for programs.")]
Objects: TypeAlias = Annotated[
    list[str],
    typer.Argument(metavar="OBJECT", help="PROVIDER://BUCKET/NAME; * ? [] {} name many, like x-{000..009}.tar"),
]
ObjectArgument: TypeAlias = Annotated[str, typer.Argument(metavar="OBJECT", help="PROVIDER://BUCKET/NAME")]
TransformArgument: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="Id or name of a transform.")]
