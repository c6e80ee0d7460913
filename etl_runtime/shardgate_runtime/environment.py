"""The requirements that an image lacks, installed once and kept at the gateway.

Installing at every pod's start would cost each of them minutes, and all of them access to a package index. So this runs
once per set of requirements and image, in that image (`python -m shardgate_runtime.environment`), and uploads a folder
that the pods then unpack.

pip does it in two steps. First it resolves what is missing against what the image has, and only reports: what is
there and fits stays, and a dependency that is there in a version that does not fit is on the list. Then exactly this
list goes into the folder. Nothing of the image is ever changed. What pip says of a requirement that it can't find is
what the user gets to read.

A requirement counts as missing by its distribution's name. Another version than the one that was captured is none too
few: workers only warn of it, as they do on one machine.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import http.client
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from http import HTTPStatus
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from packaging.requirements import InvalidRequirement, Requirement

from shardgate.text import safe_line
from shardgate_runtime.failures import StartupError, describe
from shardgate_runtime.http_get import connect, target_of, text_of
from shardgate_runtime.options import termination_log
from shardgate_runtime.site_folder import pack
from shardgate_runtime.termination import write_reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

log = logging.getLogger(__name__)

ATTEMPTS = 6
PAUSE_SECONDS = 0.5
"""Before the second attempt to upload; doubles each time."""
QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_PROGRESS_BAR": "off", "PIP_NO_COLOR": "1"}
KEPT = (HTTPStatus.OK, HTTPStatus.CREATED)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="shardgate_runtime.environment", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--requirement", action="append", default=[], help='like "einops==0.8.1"; may be given several times')
    add("--upload-url", required=True, help="where the environment is kept")
    add("--token-file", type=Path, help="file with the bearer token for it")
    add("--termination-log", type=Path, default=termination_log(), help="file for the reason of a failure")
    add("--addresses", action="store_true", help="install what says by itself where it comes from (name @ URL), too")
    add("--pip", action="append", default=[], help="option for pip, like --index-url=URL")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        needs = missing(given.requirement, addresses=given.addresses)
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "environment.tar.gz"
            pack(install(needs, Path(folder), given.pip, addresses=given.addresses), archive)
            upload(archive, given.upload_url, given.token_file)
    except StartupError as error:
        print(error.message, error.hint, file=sys.stderr)
        write_reason(given.termination_log, error.message, error.hint)
        return os.EX_TEMPFAIL if error.transient else os.EX_CONFIG
    return os.EX_OK


def missing(requirements: Iterable[str], *, addresses: bool = False) -> list[str]:
    """Those whose distribution is not installed.

    Raises:
        StartupError: One of them is none, or an address where these are not allowed.
    """
    absent = []
    for text in requirements:
        try:
            requirement = Requirement(text)
            _check_address(text, requirement.url, addresses)
            metadata.version(requirement.name)
        except InvalidRequirement as error:
            raise StartupError(f"requirement {text!r}: {error}", 'write it like "torch==2.6.0"') from error
        except metadata.PackageNotFoundError:
            absent.append(text)
    return absent


def install(requirements: Sequence[str], work: Path, options: Sequence[str], *, addresses: bool = False) -> Path:
    """Install requirements, and what they need beyond what is here, into a folder below `work`.

    Raises:
        StartupError: pip can't; the message is its own. Or one of them needs a distribution by its address.
    """
    target = work / "site"
    target.mkdir()
    if not requirements:
        return target
    report = work / "report.json"
    _pip(["install", "--dry-run", "--report", str(report), *options, *requirements], requirements)
    found = json.loads(report.read_text())["install"]
    for item in found:
        _check_address(item["metadata"]["name"], item.get("is_direct") and item["download_info"]["url"], addresses)
    chosen = [_exactly(item) for item in found]
    log.info("installing %s", ", ".join(chosen))
    _pip(["install", "--target", str(target), "--no-deps", *options, *chosen], requirements)
    return target


def _check_address(name: str, address: str | None, allowed: bool) -> None:
    if address and not allowed:
        raise StartupError(
            f"{safe_line(name)} would come from an address of its own, {safe_line(address)}",
            'require versions of a package index, or have the operator set kubernetes.requirements to "addresses"',
        )


def _exactly(item: dict[str, dict[str, str]]) -> str:
    about = item["metadata"]
    if item.get("is_direct"):
        return f"{about['name']} @ {item['download_info']['url']}"
    return f"{about['name']}=={about['version']}"


def _pip(arguments: Sequence[str], requirements: Sequence[str]) -> None:
    own = importlib.util.find_spec("pip") is not None
    base = getattr(sys, "_base_executable", sys.executable)  # an image's venv may be without pip, and its base has one
    command = [sys.executable, "-m", "pip"] if own else [base, "-m", "pip", "--python", sys.executable]
    result = subprocess.run(
        [*command, *arguments],
        env=os.environ | QUIET,
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    sys.stderr.write(result.stderr)
    if result.returncode:
        raise StartupError(
            f"installing {', '.join(requirements)} failed: {_reason(result.stderr)}",
            "is it spelled as at the package index, and does that have the version? "
            "requirements= adds to what was captured, and replaces it. What has no wheel is built only where the "
            'operator sets kubernetes.requirements to "sources"',
        )


def _reason(said: str) -> str:
    """Of all that pip wrote: its errors, and what the first connection failed of, if one did."""
    lines = said.splitlines()
    retries = [line for line in lines if line.startswith("WARNING: Retrying")][:1]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return "\n".join([*errors, *retries]) or said.strip()[-1000:]


def upload(archive: Path, url: str, token_file: Path | None) -> None:
    """PUT the archive, with its digest.

    Raises:
        StartupError: The gateway can't be reached, or refuses it.
    """
    pause = PAUSE_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        try:
            known = _ask("HEAD", url, token_file)[0] == HTTPStatus.OK
            status, said = (HTTPStatus.OK, "") if known else _put(archive, url, token_file)
        except (OSError, http.client.HTTPException) as error:
            status, said = HTTPStatus.SERVICE_UNAVAILABLE, describe(error)
        if status in KEPT:
            return
        final = status < HTTPStatus.INTERNAL_SERVER_ERROR
        if final or attempt == ATTEMPTS:
            raise StartupError(f"the environment can't be stored at {url}: {said}", "", transient=not final)
        log.info("the environment can't be stored yet: %s", said)
        time.sleep(pause)
        pause *= 2


def _put(archive: Path, url: str, token_file: Path | None) -> tuple[int, str]:
    with archive.open("rb") as file:
        headers = {
            "Content-Type": "application/gzip",
            "Content-Length": str(archive.stat().st_size),
            "Content-Digest": f"sha-256=:{base64.b64encode(hashlib.file_digest(file, 'sha256').digest()).decode()}:",
        }
        file.seek(0)
        return _ask("PUT", url, token_file, file, headers)


def _ask(
    method: str, url: str, token_file: Path | None, body: BinaryIO | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Status, and what the answer says."""
    place = urlsplit(url)
    own = {"Authorization": f"Bearer {token_file.read_text(encoding='ascii').strip()}"} if token_file else {}
    connection = connect(place)
    try:
        connection.request(method, target_of(place), body=body, headers=own | (headers or {}))
        response = connection.getresponse()
        return response.status, text_of(response)
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
