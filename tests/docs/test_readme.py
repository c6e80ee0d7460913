"""What the README shows is true: its example runs and prints what it says, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for tag, text in fenced if tag == language]


@pytest.mark.slow  # imports torch twice, in the example and in its worker
def test_the_python_example_prints_what_the_readme_says(tmp_path: Path) -> None:
    from shardgate.demo.shards import make_shards

    make_shards(tmp_path / "demo-output" / "sharded-imagenet", 4, 6, 4, lambda: None)
    (example,) = blocks("python")
    script = tmp_path / "example.py"
    script.write_text(example)
    ran = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.returncode == 0, ran.stderr
    said = next(block for block in blocks("") if block.startswith("Initializing ETL..."))
    assert ran.stdout.splitlines()[:2] == said.splitlines()[:2]
    assert re.fullmatch(r"\(224, 224\) \d+", ran.stdout.splitlines()[2])


@pytest.mark.parametrize(
    "page", [path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))], ids=str
)
def test_links_lead_to_files_that_exist(page: Path) -> None:
    text = (ROOT / page).read_text()
    missing = [
        target
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
        if "://" not in target and not (ROOT / page).parent.joinpath(target).exists()
    ]
    assert missing == []


def test_the_make_targets_that_pages_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"`make ([\w-]+)", page) + re.findall(r"^make ([\w-]+)", page, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
