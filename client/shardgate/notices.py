"""What a reader of results should know, and no error tells: warnings, once each.

A training loop that names no `epoch` sees the same augmentation in every epoch, and nothing looks wrong. A result whose
samples were left out for want of time or memory looks whole. The gateway says both in headers of its answers.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate.chunks import gaps_of
from shardgate.errors import ShardgateError
from shardgate.wire.paths import transform_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3 import BaseHTTPResponse

    from shardgate.transport import Transport

REMEMBERED = 65_536
"""Targets without an epoch that were opened, per process."""
_EPOCH = re.compile(r"[?&;](epoch|e)=")


@dataclass
class _Opened:
    """What was opened without an epoch: hashes of targets, and whether somebody was warned."""

    targets: set[int] = field(default_factory=set)
    has_warned: bool = False


_opened = _Opened()


class ResultWarning(UserWarning):
    """Something about the result of a transform that its reader may not want."""


class CaptureWarning(UserWarning):
    """Something about a function that is being sent that its author may not want."""


def notice_opened(target: str, headers: Mapping[str, str]) -> None:
    """Warn where the same random result is opened again without an epoch."""
    if _opened.has_warned or wire.RANDOM_HEADER not in headers or _EPOCH.search(target):
        return
    if hash(target) not in _opened.targets:
        if len(_opened.targets) < REMEMBERED:
            _opened.targets.add(hash(target))
        return
    _opened.has_warned = True
    warnings.warn(
        f"{target.partition('?')[0]} is read again without an epoch, and its transform draws random numbers: they are "
        "the same as the last time. Put epoch=N into its URL, as in expand_object_urls(..., epoch=N)",
        ResultWarning,
        stacklevel=4,
    )


def notice_empty(label: str, transform_id: str, transport: Transport) -> None:
    """Warn of a result without samples, which is mostly a function that returns nothing."""
    try:
        stats = transport.json("GET", transform_path(transform_id, "stats"))
        count = 0 if stats["samples_out"] else int(stats["samples_in"])
    except (ShardgateError, KeyError, TypeError, ValueError):  # a pipeline has no stats, or we may not read them
        count = 0
    samples = f"any of {count} samples" if count else "any sample of its shard"
    warnings.warn(
        f"{label} has no samples: the function of {transform_id} returned nothing for {samples}; "
        "was `return sample` forgotten?",
        ResultWarning,
        stacklevel=4,
    )


def notice_ended(label: str, response: BaseHTTPResponse) -> None:
    """Warn where samples are missing for a cause that may pass, which is known at the end."""
    answer = getattr(response, "_original_response", None)
    if answer is not None and (gaps := gaps_of(answer)):
        warnings.warn(
            f"{label} lacks {gaps} samples that were left out for want of time or memory, or because a worker died; "
            "another read may have them",
            ResultWarning,
            stacklevel=4,
        )
