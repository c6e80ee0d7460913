"""What the registry reads and writes in the database. Each function works in the session of one transaction."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from shardgate_gateway.errors import BadRequest, NotFound
from shardgate_gateway.etl.transform_record import registration_of
from shardgate_gateway.state.tables import AliasRow, InstallationRow, TransformRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from shardgate_gateway.etl.transform_record import TransformRecord


def update(session: Session, row: TransformRow) -> TransformRow | None:
    """Set options and alias of a transform that is there already."""
    known = session.get(TransformRow, row.id)
    if known is not None:
        known.options = row.options
        session.merge(AliasRow(name=row.name, transform_id=row.id, updated_at=datetime.now(UTC)))
    return known


def insert(session: Session, row: TransformRow) -> TransformRow:
    known = update(session, row)
    if known is None:
        session.add(row)
        session.flush()
        session.merge(AliasRow(name=row.name, transform_id=row.id, updated_at=datetime.now(UTC)))
    return known or row


def learn(session: Session, known: TransformRecord, environment: dict[str, str] | None) -> TransformRow:
    """Write what is new. The record may be older than the row, so what nobody told is not written back."""
    row = find(session, known.id)
    if registration_of(row) != known.registration:
        raise NotFound(f"{known.id} was deleted, and registered again", hint="read it again")
    if environment is not None:
        row.environment = environment
    row.is_random = row.is_random or known.is_random
    row.is_unstable = row.is_unstable or known.is_unstable
    return row


def meaning(session: Session, name: str) -> str:
    alias = session.get(AliasRow, name)
    return alias.transform_id if alias is not None else ""


def find(session: Session, name_or_id: str) -> TransformRow:
    row = session.get(TransformRow, name_or_id)
    if row is None:
        alias = session.get(AliasRow, name_or_id)
        row = session.get(TransformRow, alias.transform_id) if alias else None
    if row is None:
        raise NotFound(f"there is no transform {name_or_id!r}", hint="`shardgate etl ls` lists them")
    return row


def remove(session: Session, transform_id: str) -> str:
    row = session.get(TransformRow, transform_id)
    if row is None:
        raise NotFound(f"there is no transform {transform_id!r}", hint="give its full id, not its name")
    session.execute(delete(TransformRow).where(TransformRow.id == transform_id))
    return row.package_key


def installation(session: Session) -> str:
    row = session.get(InstallationRow, 1)
    if row is None:
        row = InstallationRow(id=1, name=secrets.token_hex(8))
        session.add(row)
        session.flush()
    return row.name


def place_in(token: str) -> tuple[datetime, str]:
    at, _, transform_id = token.partition("~")
    try:
        return datetime.fromisoformat(at).astimezone(UTC), transform_id
    except (ValueError, OverflowError):
        raise BadRequest("the token is not from a list of transforms", hint="list again, without a token") from None


def page(session: Session, place: tuple[datetime, str] | None, limit: int) -> Sequence[TransformRow]:
    rows = select(TransformRow).order_by(TransformRow.created_at.desc(), TransformRow.id).limit(limit)
    if place is not None:
        at, transform_id = place
        older = TransformRow.created_at < at
        rows = rows.where(older | ((TransformRow.created_at == at) & (TransformRow.id > transform_id)))
    return session.scalars(rows).all()
