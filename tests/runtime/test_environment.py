"""What an image lacks: found, installed by a real pip from a tiny index, packed, uploaded, and used by a runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from http_lab import Web, web
from package_index import options_for, publish
from runtime_process import package_of, start_runtime, tar_of

from shardgate_runtime import site_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

HOST = "127.0.0.1"
KEPT = "/v1/environments/1234"


@pytest.fixture
def index() -> Iterator[Web]:
    with web() as state:
        publish(
            state, "probe-answer", "1.0", {"probe_answer.py": "from probe_number import NUMBER"}, ["probe-number>=1"]
        )
        publish(state, "probe-number", "1.0", {"probe_number.py": "NUMBER = 42"})
        yield state


def make(index: Web, folder: Path, *requirements: str, flags: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    (folder / "token").write_text("secret")
    command = [sys.executable, "-m", "shardgate_runtime.environment", f"--upload-url={index.url}{KEPT}"]
    command += [f"--requirement={text}" for text in requirements]
    command += [f"--pip={option}" for option in options_for(index, HOST)]
    command += [*flags, f"--token-file={folder / 'token'}", f"--termination-log={folder / 'words'}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def ask(sample: dict[str, Any]) -> Any:
    import numpy as np
    import probe_answer

    return {"txt": f"{probe_answer.NUMBER} {probe_answer.__file__} {np.__file__}"}


def test_what_is_missing_is_installed_with_what_it_needs_and_a_runtime_uses_it(tmp_path: Path, index: Web) -> None:
    made = make(index, tmp_path, "probe-answer==1.0", "numpy==1.0")
    assert made.returncode == 0, made.stderr
    assert "installing probe-answer==1.0, probe-number==1.0" in made.stderr
    assert [seen for seen in index.seen if seen[1] == KEPT] == [
        ("HEAD", KEPT, "Bearer secret"),
        ("PUT", KEPT, "Bearer secret"),
    ]
    package = package_of(ask, requirements=("probe-answer==1.0",))
    folder = tmp_path / "run"
    with start_runtime(folder, package, f"--environment-url={index.url}{KEPT}") as runtime:
        assert runtime.wait_for("ready", "failed")["state"] == "ready", runtime.log
        output = bytes(runtime.run(tar_of([("a.txt", b"x")])).output).decode()
    assert f"42 {folder}/environment/probe_answer.py" in output
    assert f"{folder}/environment/numpy" not in output


def test_what_is_there_already_is_not_uploaded_again(tmp_path: Path, index: Web) -> None:
    index.files[KEPT] = b"the first one"
    assert make(index, tmp_path).returncode == 0
    assert index.files[KEPT] == b"the first one"


def test_a_requirement_that_does_not_exist_is_told_in_the_words_of_pip(tmp_path: Path, index: Web) -> None:
    assert make(index, tmp_path, "no-such-thing==1.0").returncode == os.EX_CONFIG
    assert "No matching distribution found for no-such-thing==1.0" in (tmp_path / "words").read_text()


@pytest.mark.parametrize(
    "address",
    [
        "{index}/probe_number-1.0-py3-none-any.whl",
        "git+{index}/probe.git",
        "file://{folder}/probe_number-1.0-py3-none-any.whl",
    ],
)
def test_nothing_is_fetched_from_an_address_that_a_requirement_names(tmp_path: Path, index: Web, address: str) -> None:
    address = address.format(index=index.url, folder=tmp_path)
    (tmp_path / "probe_number-1.0-py3-none-any.whl").write_bytes(index.files["/probe_number-1.0-py3-none-any.whl"])
    for name in ("probe-number", "numpy"):  # also where a distribution of the name is there already
        assert make(index, tmp_path, f"{name} @ {address}").returncode == os.EX_CONFIG
        assert f"would come from an address of its own, {address}" in (tmp_path / "words").read_text()
    assert not index.seen


def test_a_dependency_may_not_name_an_address_unless_the_operator_allows_it(tmp_path: Path, index: Web) -> None:
    needs = f"probe-number @ {index.url}/probe_number-1.0-py3-none-any.whl"
    publish(index, "probe-indirect", "1.0", {"probe_indirect.py": ""}, [needs])
    assert make(index, tmp_path, "probe-indirect==1.0").returncode == os.EX_CONFIG
    assert "probe-number would come from an address of its own" in (tmp_path / "words").read_text()
    made = make(index, tmp_path, "probe-indirect==1.0", flags=["--addresses"])
    assert made.returncode == 0, made.stderr


def test_a_refused_upload_is_final(tmp_path: Path, index: Web) -> None:
    index.statuses = [404, 403]
    assert make(index, tmp_path).returncode == os.EX_CONFIG
    assert "says the test" in (tmp_path / "words").read_text()


def test_an_environment_comes_before_the_image_and_after_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy/__init__.py").write_text("")
    (tmp_path / "json.py").write_text("")
    (tmp_path / "more.pth").write_text("beside\n")
    (tmp_path / "beside").mkdir()
    code = f"""
import sys
from pathlib import Path
from shardgate_runtime.site_folder import use
use(Path({str(tmp_path)!r}))
sys.modules.pop("json", None)
import json, numpy
print(json.__file__, numpy.__file__, {str(tmp_path / "beside")!r} in sys.path)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not said[0].startswith(str(tmp_path))
    assert said[1:] == [f"{tmp_path}/numpy/__init__.py", "True"]


def test_an_archive_cannot_write_beside_its_folder(tmp_path: Path) -> None:
    import gzip

    archive = tmp_path / "archive"
    archive.write_bytes(gzip.compress(tar_of([("../evil.py", b"x")])))
    with pytest.raises(site_folder.StartupError, match="unpacked"):
        site_folder.unpack(archive, tmp_path / "folder")
    assert not (tmp_path / "evil.py").exists()
