"""Transforms one after the other: `transform_id=A,B` is B of A of the object.

A result is a source (`result_source.py`), and a pipeline a chain of results, each the input of the next: its identity
is the chain of theirs. Nothing lies in between: the worker of B reads `.../object?transform_id=A` from the gateway as
it would read a raw object elsewhere, and that GET is answered like any other, by A's own cache policy, and with its own
account of lost workers. If B's worker is lost, the next one asks A again, from the first byte.

**What could lock up.** B's worker is held while it waits for a worker of A. Readers of `A,B` and of `B,A` could each
hold what the other one waits for. So such a wait is short, and who waited in vain lets go of all workers of the
pipeline and begins anew (`hold.py`). The other way round nobody waits: a worker of A is held by a GET whose reader is
B's worker, which reads until it is done, or is given up with its reader (`etl.release_seconds`) and then closes that
GET. What is left is a transform that waits for itself: with one worker it would never get through, so no transform
stands twice in a pipeline.

**Starting.** All stages are started before the first worker is asked, so nobody is held while something starts, and
what can't start is told at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate_gateway.errors import BadRequest, GatewayError, TransformError
from shardgate_gateway.etl.arguments import canonical, check_taken, parsed, spelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardgate_gateway.etl.registry import Registry
    from shardgate_gateway.etl.transform_record import TransformRecord

_EACH = 'with several transforms, args is a JSON object by their names, like {"resize": {"size": 64}}'


@dataclass(frozen=True, slots=True)
class Stage:
    """One transform of a pipeline, with its share of the request's args."""

    record: TransformRecord
    args: str = ""


async def resolve_pipeline(registry: Registry, names: str, args: str, limit: int) -> tuple[Stage, ...]:
    """The stages that a request names, in the order in which they are applied.

    Args:
        registry: Knows the transforms.
        names: Ids or names, separated by commas.
        args: Of the request: for one transform its args, for several an object by their names or ids.
        limit: Bytes of `args`.

    Raises:
        NotFound: One of them does not exist.
        BadRequest: They can't be a pipeline, or the args don't fit them.
    """
    parts = names.split(wire.STAGE_SEPARATOR)
    if len(parts) > wire.MAX_STAGES:
        raise BadRequest(f"the pipeline has {len(parts)} stages", hint=f"up to {wire.MAX_STAGES} are allowed")
    if "" in parts:
        raise BadRequest(f"{names!r} names an empty stage", hint="write transform_id=A,B")
    records = [await registry.resolve(part) for part in parts]
    for index, record in enumerate(records):
        if record in records[:index]:
            raise BadRequest(
                f"{record.id} stands twice in the pipeline, and would wait for itself",
                hint="register the function under a second name",
            )
    shares = _shares(parts, records, canonical(args, limit), limit)
    for record, share in zip(records, shares, strict=True):
        check_taken(record, share)
    return tuple(map(Stage, records, shares))


def pipeline_query(stages: Sequence[Stage], seed: int, epoch: int) -> dict[str, str]:
    """The query under which the result of these stages is found."""
    args = {stage.record.id: stage.args for stage in stages if stage.args}
    query = {"transform_id": pipeline_id([stage.record for stage in stages])}
    if args:
        query["args"] = stages[0].args if len(stages) == 1 else spelled(args)
    return query | {"seed": str(seed), "epoch": str(epoch)}


def pipeline_id(records: Sequence[TransformRecord]) -> str:
    return wire.STAGE_SEPARATOR.join(record.id for record in records)


def name_stage(error: GatewayError, stage: int, stages: int, transform_id: str) -> None:
    """Say in an error of user code which stage it happened in, unless an earlier one has been named already."""
    if stages > 1 and isinstance(error, TransformError) and not error.message.startswith("stage "):
        error.message = f"stage {stage} of {stages}, {transform_id}: {error.message}"


def _shares(parts: list[str], records: list[TransformRecord], args: str, limit: int) -> list[str]:
    """The args of each stage, as a request for this stage alone would have them: its worker's input is asked for so."""
    if len(records) == 1:
        return [args]
    given = parsed(args) if args.startswith("{") else args or {}
    if not isinstance(given, dict):
        raise BadRequest("args does not say which transform it is for", hint=_EACH)
    shares = []
    for part, record in zip(parts, records, strict=True):
        keys = [key for key in dict.fromkeys((part, record.id, record.name)) if key in given]
        if len(keys) > 1:
            raise BadRequest(f"args is there twice for {record.id}: {' and '.join(keys)}", hint=_EACH)
        value = given[keys[0]] if keys else ""
        shares.append(canonical(value, limit) if isinstance(value, str) else spelled(value))
    known = {name for part, record in zip(parts, records, strict=True) for name in (part, record.id, record.name)}
    if stray := sorted(given.keys() - known):
        raise BadRequest(f"args is for {stray[0]!r}, which is no stage of the pipeline", hint=_EACH)
    return shares
