"""The demo's shards look like ImageNet's, and the demo itself runs and checks what it read."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from lean_venv import lean_venv

pytest.importorskip("skimage")

from shardgate.demo.photos import photographs, variation
from shardgate.demo.shards import make_shards

if TYPE_CHECKING:
    from pathlib import Path


def test_shards_hold_a_class_and_a_photograph_for_each_sample(tmp_path: Path) -> None:
    done: list[None] = []
    make_shards(tmp_path, 5, 2, 3, lambda: done.append(None))
    assert len(done) == 11
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "imagenet-train-000000.tar",
        "imagenet-val-000000.tar",
        "imagenet-val-000001.tar",
    ]
    with tarfile.open(tmp_path / "imagenet-train-000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert list(members) == [f"{n:07d}.{suffix}" for n in range(5) for suffix in ("cls", "jpg")]
    assert all(body.isdigit() for name, body in members.items() if name.endswith(".cls"))


def test_the_same_number_is_the_same_picture_of_imagenets_size() -> None:
    from PIL import Image

    photos = photographs()
    made = [variation(photos, number) for number in range(30)]
    assert made == [variation(photographs(), number) for number in range(30)]
    assert len({label for _, label in made}) > 4
    mean = sum(len(jpeg) for jpeg, _ in made) / len(made)
    assert 60_000 < mean < 160_000
    for jpeg, _ in made:
        assert 375 <= max(Image.open(io.BytesIO(jpeg)).size) <= 512


@pytest.mark.slow  # torch is imported by the demo, by four loaders' workers and by two transforms
@pytest.mark.timeout(300)
def test_the_demo_runs_on_its_extra_alone_and_writes_its_picture(tmp_path: Path) -> None:
    pytest.importorskip("shardgate_gateway.app")
    command = [lean_venv(tmp_path / "venv", "demo"), "-W", "error::ResourceWarning", "-m", "shardgate"]
    command += ["demo", "--samples", "40", "--shards", "2", "--output", str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}, check=False)
    assert run.returncode == 0, run.stderr
    assert "ETL imagenet-train successfully initialized\n" in run.stdout
    lines = [line.split() for line in run.stdout.splitlines()]
    rows = [words for words in lines if len(words) > 4 and words[1].isdigit()]
    assert [(row[0], row[1], row[2]) for row in rows] == [
        ("loader", "1", "40"),
        ("gateway", "1", "40"),
        ("loader", "1", "4"),
        ("gateway", "1", "4"),
        ("gateway", "2", "4"),
        ("gateway", "3", "4"),
    ]
    assert " ".join(rows[-1]).endswith("2 of 2"), "the third epoch comes from the cache"
    assert (tmp_path / "out" / "before-after.png").read_bytes().startswith(b"\x89PNG")
