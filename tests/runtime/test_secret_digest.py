"""The version of Secrets, as a pod tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from runtime_process import package_of, start_runtime, tar_of

from shardgate_runtime.secret_digest import secrets_of

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    for index, name in enumerate(("API_KEY", "not-a-variable")):
        folder = tmp_path / "secrets" / str(index)
        (folder / "..2026_01").mkdir(parents=True)
        (folder / "..data").symlink_to("..2026_01")
        (folder / "..2026_01" / name).write_text("what the file says does not count")
        (folder / name).symlink_to(f"..data/{name}")
    (tmp_path / "key").write_text("k" * 64)
    return {
        "SHARDGATE_SECRETS": str(tmp_path / "secrets"),
        "SHARDGATE_SECRETS_KEY": str(tmp_path / "key"),
        "API_KEY": "first",
        "HOSTNAME": "pod-1",
    }


def test_another_value_of_a_secret_is_another_version_and_nothing_else_is(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    first = secrets_of(environ)
    assert first.keys() == {"secrets"}
    assert "first" not in str(first)
    assert secrets_of(environ | {"HOSTNAME": "pod-2", "OTHER": "x"}) == first
    assert secrets_of(environ | {"API_KEY": "second"}) != first
    assert secrets_of({name: value for name, value in environ.items() if name != "API_KEY"}) != first
    (tmp_path / "key").write_text("another")
    assert secrets_of(environ) != first, "or everybody could try values"


def test_a_transform_without_secrets_says_nothing_of_them() -> None:
    assert secrets_of({"API_KEY": "first"}) == {}


def test_a_runtime_tells_the_version_of_its_secrets(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for value in ("first", "first", "second"):
        for name, text in (environ | {"API_KEY": value}).items():
            monkeypatch.setenv(name, text)
        with start_runtime(tmp_path / f"run{len(told)}", package_of(same)) as runtime:
            assert runtime.wait_for("ready", "failed")["state"] == "ready", runtime.log
            told.append(runtime.run(tar_of([("a.txt", b"x")])).hello.environment["secrets"])
    assert told[0] == told[1] != told[2]


def same(sample: dict[str, Any]) -> dict[str, Any]:
    return sample
