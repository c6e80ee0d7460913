"""The Python that runs the workers. A pickled function only loads in the minor version that pickled it."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import TYPE_CHECKING

from shardgate_gateway.errors import PackageInvalid

if TYPE_CHECKING:
    from shardgate import wire

_ASK = "import sys; print('%d.%d' % sys.version_info[:2])"
ASK_SECONDS = 30.0


class Interpreter:
    """An executable, given by its path; "" is the gateway's own."""

    def __init__(self, path: str) -> None:
        self.path = path or sys.executable

    @functools.cached_property
    def version(self) -> str:
        """Its "major.minor".

        Raises:
            PackageInvalid: It does not run.
        """
        if self.path == sys.executable:
            return "{}.{}".format(*sys.version_info[:2])
        try:
            answer = subprocess.run([self.path, "-c", _ASK], capture_output=True, timeout=ASK_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise PackageInvalid(
                f"the workers' interpreter {self.path} does not run: {error}", hint="see the setting etl.python"
            ) from error
        return answer.stdout.decode().strip()

    def check(self, manifest: wire.Manifest) -> None:
        """Refuse a function of another Python.

        Raises:
            PackageInvalid: It was pickled by another minor version.
        """
        if manifest.python != self.version:
            raise PackageInvalid(
                f"transform {manifest.name!r} was pickled by Python {manifest.python}, "
                f"and its workers run {self.version}",
                hint=f"create it with Python {self.version}, or set etl.python to a Python {manifest.python} that has "
                "shardgate[runtime] installed",
            )
