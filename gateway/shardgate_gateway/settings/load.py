"""Reads settings from a file, the environment and the command line, and explains what can't be used."""

from __future__ import annotations

import os
import tomllib
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import (
    BaseModel,
    ValidationError,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from shardgate.providers import split_bucket
from shardgate_gateway.errors import BadRequest
from shardgate_gateway.settings.storage import BucketSettings
from shardgate_gateway.settings.tree import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

ENV_PREFIX = "SHARDGATE_"


class _Environment(Settings, BaseSettings):
    """Only says how the environment spells the settings above."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter="__")


def load(config: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Merge defaults, file, environment and flags, the later the stronger.

    Args:
        config: TOML file with the groups as tables.
        flags: Nested by group, as in the file: `{"serve": {"port": 0}}`.

    Raises:
        BadRequest: A value can't be used; the message names each setting and where it was set.
    """
    layers = [
        (f"file {config}", _read_file(config) if config else {}),
        ("environment", _read_environment()),
        ("command line", dict(flags or {})),
    ]
    merged: dict[str, Any] = {}
    for origin, layer in layers:
        _merge(merged, _with_canonical_buckets(origin, layer))
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        lines = [_explain(detail, layers) for detail in error.errors()]
        raise BadRequest("\n".join(lines), hint="docs/settings.md describes every setting") from error


def parse_bucket(text: str) -> tuple[str, BucketSettings]:
    """Take a `--bucket PROVIDER://NAME=WHERE` apart: `("gcp://imagenet", BucketSettings(where="./data"))`.

    Raises:
        BadRequest: Not of that form.
    """
    hint = "write --bucket PROVIDER://NAME=WHERE, like gcp://imagenet=./data"
    bucket, separator, where = text.partition("=")
    if not separator or not where:
        raise BadRequest(f"--bucket {text!r} has no location", hint=hint)
    try:
        return "{}://{}".format(*split_bucket(bucket)), BucketSettings(where=where)
    except ValueError as error:
        raise BadRequest(f"--bucket {text!r}: {error}", hint=hint) from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadRequest(f"--config {path}: {error}", hint="a TOML file with tables like [serve]") from error


def _read_environment() -> dict[str, Any]:
    groups = set(Settings.model_fields)
    for name in os.environ:
        group, nested, field = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if name.startswith(ENV_PREFIX) and nested and group not in groups:
            close = get_close_matches(group, groups, n=1)
            meant = f"; did you mean {ENV_PREFIX}{close[0].upper()}__{field.upper()}?" if close else ""
            raise BadRequest(
                f"environment: {name} is no setting{meant}", hint=f"groups are {', '.join(sorted(groups))}"
            )
    try:
        return EnvSettingsSource(_Environment)()
    except SettingsError as error:
        raise BadRequest(f"environment: {error}", hint="SHARDGATE_BUCKETS and the like hold JSON") from error


def _with_canonical_buckets(origin: str, layer: dict[str, Any]) -> dict[str, Any]:
    """Bucket names in their one spelling, so that `gs://b` in a file and `gcp://b` in a flag are the same bucket."""
    if not isinstance(layer.get("buckets"), dict):
        return layer
    try:
        return layer | {"buckets": {"{}://{}".format(*split_bucket(name)): b for name, b in layer["buckets"].items()}}
    except ValueError as error:
        raise BadRequest(f"{origin}: buckets: {error}", hint="bucket names look like gcp://imagenet") from error


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for name, value in layer.items():
        if isinstance(value, dict):
            into[name] = dict(into[name]) if isinstance(into.get(name), dict) else {}
            _merge(into[name], value)
        else:
            into[name] = value


def _explain(detail: ErrorDetails, layers: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """One line that names the setting, what is wrong, and the strongest layer that sets it."""
    path = detail["loc"]
    origin = next((name for name, layer in reversed(layers) if _sets(layer, path)), "")
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = "there is no such setting" + _meant(path)
    return ": ".join(filter(None, (origin, ".".join(map(str, path)), message)))


def _meant(path: Sequence[int | str]) -> str:
    """The setting whose name is most like this one, as a question; empty where none is."""
    *groups, name = map(str, path)
    group = _group_at(groups)
    close = get_close_matches(name, group.model_fields, n=1) if group is not None else []
    return f"; did you mean {'.'.join([*groups, *close])}?" if close else ""


def _group_at(groups: Sequence[str]) -> type[BaseModel] | None:
    if not groups:
        return Settings
    if groups[0] == "buckets":
        return BucketSettings
    field = Settings.model_fields.get(groups[0])
    kind = field.annotation if field is not None and len(groups) == 1 else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _sets(layer: Any, path: Sequence[int | str]) -> bool:
    for name in path:
        if not isinstance(layer, dict) or name not in layer:
            return False
        layer = layer[name]
    return True
