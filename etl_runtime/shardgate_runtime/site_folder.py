"""A folder of installed distributions beside those of this Python: packed by one pod, unpacked and used by others.

What is in it was resolved to go with what the image has, and holds only what the image lacks, or has in a version that
does not fit what was asked for. So wherever both have a distribution it is the folder's that was asked for, and the
folder comes before `site-packages` in `sys.path`; the standard library comes before both, as always. It must be in use
before anything is imported that it may replace.
"""

from __future__ import annotations

import gzip
import os
import shutil
import site
import sys
import tarfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from shardgate_runtime.failures import StartupError

if TYPE_CHECKING:
    from pathlib import Path

LEVEL = 1
"""Of gzip: an environment is written once and read by every pod, but over a fast network; higher levels cost more time
than they save."""
SITE_FOLDERS = ("site-packages", "dist-packages")


def pack(folder: Path, archive: Path) -> None:
    """Write everything in the folder to an archive of plain files."""
    with gzip.open(archive, "wb", LEVEL) as stream, tarfile.open(fileobj=stream, mode="w|", dereference=True) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)


def unpack(archive: Path, folder: Path) -> None:
    """Make the folder what the archive says, and remove the archive.

    Raises:
        StartupError: The archive is damaged, or the disk is full.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of a container that ended while it unpacked
    folder.mkdir(parents=True)
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                _put(tar, member, folder)
        archive.unlink()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise StartupError(
            f"the environment can't be unpacked: {error}", "does the pod have enough ephemeral storage?", transient=True
        ) from error


def _put(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """One member, into its place. By hand, for `extractall` is safe only since Python 3.11.4."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise tarfile.TarError(f"{member.name!r} leads out of the folder")
    path = folder / name
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
    elif (source := tar.extractfile(member)) is not None:
        with source, path.open("wb") as target:
            shutil.copyfileobj(source, target)
        path.chmod(member.mode & 0o755)
        os.utime(path, (member.mtime, member.mtime))  # which compiled modules know their source by


def use(folder: Path) -> None:
    """Import from the folder what it has, before the image's own."""
    before = list(sys.path)
    site.addsitedir(str(folder))  # runs its .pth files, too
    added = [entry for entry in sys.path if entry not in before]
    place = next((at for at, entry in enumerate(before) if entry.endswith(SITE_FOLDERS)), len(before))
    sys.path[:] = [*before[:place], *added, *before[place:]]
