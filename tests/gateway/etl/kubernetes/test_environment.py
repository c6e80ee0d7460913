"""Which environment a transform needs, if any."""

from __future__ import annotations

from typing import Any

import pytest

from shardgate_gateway.etl.kubernetes.environment import Environment, EnvironmentBuilder, needed
from shardgate_gateway.settings import KubernetesSettings


@pytest.mark.parametrize(
    ("requirements", "provides", "absent"),
    [
        ((), (), None),
        (("numpy==2.0", "Pillow>=11", "webdataset==1.0"), (), None),
        (("torch==2.6", "numpy==2.0"), ("Torch",), None),
        (("torch==2.6",), (), ("torch==2.6",)),
        (("einops==0.8", "numpy==2.0", "scikit_image>=0.25"), ("torch",), ("einops==0.8", "scikit_image>=0.25")),
    ],
)
def test_only_what_the_image_lacks_is_needed(
    requirements: tuple[str, ...], provides: tuple[str, ...], absent: tuple[str, ...] | None
) -> None:
    environment = needed(requirements, "r/slim:1", "3.11", provides)
    assert (environment.requirements if environment else None) == absent


def test_what_goes_in_is_what_it_is_called_by() -> None:
    one = Environment("r/slim:1", "3.11", ("a==1", "b==2"))
    assert len(one.digest) == 64
    assert one.digest == Environment("r/slim:1", "3.11", ("b==2", "a==1")).digest
    others = [
        Environment("r/slim:2", "3.11", ("a==1", "b==2")),
        Environment("r/slim:1", "3.12", ("a==1", "b==2")),
        Environment("r/slim:1", "3.11", ("a==1", "b==3")),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 4


@pytest.mark.parametrize(
    ("allowed", "flags"),
    [
        ("wheels", ["--pip=--only-binary=:all:", "--pip=--pre"]),
        ("sources", ["--pip=--pre"]),
        ("addresses", ["--pip=--pre", "--addresses"]),
    ],
)
def test_the_job_is_told_what_the_operator_allows(allowed: str, flags: list[str]) -> None:
    settings = KubernetesSettings.model_validate({"requirements": allowed, "pip_options": ["--pre"]})
    builder = EnvironmentBuilder(Any, settings, Any, Any, "http://gateway", Any)  # type: ignore[arg-type]
    job = builder._job("env", Environment("r/slim:1", "3.11", ("a==1",)), None)
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert [arg for arg in args if arg.startswith(("--pip", "--addresses"))] == flags
