from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

from PIL import Image

from benchmarks import photos

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_photograph_is_a_jpeg_of_imagenets_size_and_always_the_same() -> None:
    jpeg = photos.photograph(7)
    assert jpeg == photos.photograph(7) != photos.photograph(8)
    assert Image.open(io.BytesIO(jpeg)).size == photos.SIZE
    assert 20_000 < len(jpeg) < 200_000


def test_a_shard_is_made_once_and_has_a_picture_and_a_class_per_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = photos.shard(2)
    made = path.stat()
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["000000.cls", "000000.jpg", "000001.cls", "000001.jpg"]
    assert photos.shard(2) == path
    assert path.stat().st_mtime_ns == made.st_mtime_ns
    assert list(path.parent.iterdir()) == [path]
