"""A registered transform, as the gateway knows it, and how it is read from its row."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate_gateway.etl.generation_name import generation_of
from shardgate_gateway.etl.options import TransformOptions

if TYPE_CHECKING:
    from datetime import datetime

    from shardgate_gateway.state.tables import TransformRow


@dataclass(frozen=True, slots=True)
class TransformRecord:
    """A registered transform.

    Attributes:
        digest: SHA-256 of its package.
        package_bytes: Size of its package.
        created_by: Whose token registered it first; "" where nobody knows.
        environment: Of its workers, as they said last; see `generation.py`. Empty while nobody knows.
        registration: Differs from one registration to the next after a deletion.
        is_random: A sample of it drew random numbers.
        is_unstable: A sample of it came out differently when it was run again.
        is_new: It was not there before the registration that answers with this.
    """

    id: str
    name: str
    digest: str
    manifest: wire.Manifest
    options: TransformOptions
    package_bytes: int
    created_at: datetime
    created_by: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    registration: str = ""
    is_random: bool = False
    is_unstable: bool = False
    is_new: bool = field(default=False, compare=False)

    @property
    def generation(self) -> str:
        return generation_of(self.environment, self.registration)


def record_of(row: TransformRow) -> TransformRecord:
    return TransformRecord(
        id=row.id,
        name=row.name,
        digest=row.digest,
        manifest=wire.Manifest.from_map(row.manifest),
        options=TransformOptions.model_validate(row.options),
        package_bytes=row.package_bytes,
        created_at=row.created_at if row.created_at.tzinfo else row.created_at.replace(tzinfo=UTC),
        created_by=row.created_by,
        environment=row.environment,
        registration=registration_of(row),
        is_random=row.is_random,
        is_unstable=row.is_unstable,
    )


def registration_of(row: TransformRow) -> str:
    return row.package_key.rpartition("/")[2]
