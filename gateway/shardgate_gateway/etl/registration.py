"""Registering a transform: what arrives is checked, by us and by the runner that is to run it, and then stored."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate.text import safe_line
from shardgate_gateway.errors import GatewayError, PackageInvalid
from shardgate_gateway.etl.manifest_check import check_manifest

if TYPE_CHECKING:
    from shardgate_gateway.etl.options import TransformOptions
    from shardgate_gateway.etl.registry import Registry
    from shardgate_gateway.etl.runner import Runner
    from shardgate_gateway.etl.transform_record import TransformRecord

log = logging.getLogger(__name__)


class Registrar:
    """Registers transforms.

    Args:
        registry: Stores them.
        runner: Says what it could never run.
        package_bytes: Most bytes of a package (`etl.package_bytes`).
    """

    def __init__(self, registry: Registry, runner: Runner, package_bytes: int) -> None:
        self._registry = registry
        self._runner = runner
        self._package_bytes = package_bytes

    async def register(self, package: bytes, options: TransformOptions, *, created_by: str = "") -> TransformRecord:
        """Check a package, store it, point its name at it, and set its options. Idempotent.

        Raises:
            PackageInvalid: Not a package, too large, or of values this gateway can't run.
            Forbidden: The options ask for what the operator does not allow.
            LocalStorageError: The database failed.
            UpstreamError: The package store failed.
        """
        # In a thread: half a gigabyte takes as long to read as many small requests to answer.
        manifest = await asyncio.to_thread(self._checked, package, options)
        before = await self._registry.meaning(manifest.name)
        record = await self._registry.add(manifest, package, options, created_by=created_by)
        if before not in {"", record.id}:
            await self._note(before, superseded=True)
        await self._note(record.id, superseded=False)
        return record

    async def _note(self, id: str, *, superseded: bool) -> None:  # noqa: A002
        try:
            await self._runner.supersede(id, superseded=superseded)
        except (GatewayError, OSError) as error:  # its workers end as late as any others
            log.warning("can't note how long the workers of %s are kept: %s", id, safe_line(error, 200))

    def _checked(self, package: bytes, options: TransformOptions) -> wire.Manifest:
        manifest = self._read(package)
        self._runner.check(manifest, options)
        return manifest

    def _read(self, package: bytes) -> wire.Manifest:
        if len(package) > self._package_bytes:
            raise PackageInvalid(
                f"the package has {len(package)} bytes, and {self._package_bytes} are allowed",
                hint="load large data in the function's setup() instead of capturing it, or raise etl.package_bytes",
            )
        try:
            manifest, function = wire.unpack_package(package)
        except ValueError as error:
            raise PackageInvalid(
                f"the package can't be read: {error}", hint="client and gateway may be of different versions"
            ) from error
        check_manifest(manifest, function)
        return manifest
