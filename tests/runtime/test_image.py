"""What the runtime's image says and the runtime relies on."""

from __future__ import annotations

import re
from pathlib import Path

from shardgate_runtime.limits import ENVIRONMENT

DOCKERFILE = Path(__file__).parent.parent.parent / "etl_runtime" / "Dockerfile"


def test_in_its_image_the_runtime_need_not_start_a_second_time_for_its_environment() -> None:
    said = dict(re.findall(r"([A-Z_]+)=(\S+)", DOCKERFILE.read_text()))
    assert said.items() >= ENVIRONMENT.items()
