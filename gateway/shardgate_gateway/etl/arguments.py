"""The `args` of a request: bounded, in one spelling, and only for transforms that take them.

`args` is part of what a result is called, so equal args must be equal text. JSON objects and arrays are therefore
rewritten (keys sorted, no spaces, ASCII), and a function gets them like that. Anything else is text, and stays as it
is: also `1.50`, which may be a number to some function and a version to another.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from shardgate_gateway.errors import BadRequest

if TYPE_CHECKING:
    from shardgate_gateway.etl.transform_record import TransformRecord

_JSON = ("{", "[")


def canonical(text: str, limit: int) -> str:
    """The one spelling of `args`.

    Args:
        text: As it came.
        limit: Bytes that it may have (`etl.args_bytes`).

    Raises:
        BadRequest: It is too long, or begins like JSON and is none.
    """
    size = len(text.encode())
    if size > limit:
        raise BadRequest(
            f"args has {size} bytes, and {limit} are allowed",
            hint="put what is long into an object, and its name into args; or raise etl.args_bytes",
        )
    return spelled(parsed(text)) if text.lstrip().startswith(_JSON) else text


def parsed(text: str) -> Any:
    """Read JSON, without what would make it ambiguous.

    Raises:
        BadRequest: It is no JSON, names a key twice, or holds a number that JSON has not.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadRequest(
            f"args begins like JSON, but {reason}", hint="send JSON, or text that begins otherwise"
        ) from None


def spelled(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def check_taken(record: TransformRecord, args: str) -> None:
    """Refuse args that nobody would look at.

    Raises:
        BadRequest: The transform takes none.
    """
    if args and not record.manifest.takes_args:
        raise BadRequest(
            f"transform {record.id} takes no args",
            hint="leave args out, or give its function a second parameter, `args`",
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large")
    return value
