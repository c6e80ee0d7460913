"""The pages about the client are true: their examples run, their tables are complete."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from shardgate import WDTransform
from shardgate.cli.main import cli
from shardgate.pods import PodOptions

if TYPE_CHECKING:
    from fake_gateway import FakeGateway

DOCS = Path(__file__).parents[2] / "docs"


def python_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:webdataset")
@pytest.mark.parametrize("page", ["client.md", "transforms.md"])
def test_the_examples_of_a_page_run_in_order(
    page: str, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from shardgate import Client

    pytest.importorskip("shardgate_gateway.app")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    gateway.objects["gcp://sharded-imagenet/imagenet-train-000000.tar"] = bytes(10240)
    gateway.objects["gcp://photos/train-000000.tar"] = bytes(10240)
    (tmp_path / "pod.yaml").write_text("{metadata: {name: thumbnails}, spec: {containers: [{image: thumbnails}]}}")
    names: dict[str, Any] = {
        "__name__": "__main__",
        "client": Client(gateway.url),
        "loader": [(np.zeros((3, 8, 8), "float32"), 1)],
        "train_transform": str.upper,
    }
    for block in python_of(page):
        exec(compile(block.replace("http://127.0.0.1:51080", gateway.url), page, "exec"), names)
    assert names["client"].endpoint == gateway.url


def commands(group: Any, path: str = "") -> list[str]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, f"{path}{name} ") if hasattr(command, "commands") else [path + name]
    return found


def test_every_command_has_its_line() -> None:
    page = (DOCS / "cli.md").read_text()
    for command in commands(typer.main.get_command(cli)):
        assert f"`{command}" in page or f"shardgate {command}" in page, command


def test_every_option_of_a_transform_has_its_line() -> None:
    table = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", (DOCS / "transforms.md").read_text(), re.MULTILINE))
    parameters = list(inspect.signature(WDTransform).parameters.values())[2:-1]
    assert list(table) == [parameter.name for parameter in parameters]
    for parameter in parameters[1:-1]:
        assert table[parameter.name].strip("`").strip('"') == str(parameter.default)


def test_everything_that_may_be_asked_of_pods_has_its_line() -> None:
    section = (DOCS / "transforms.md").read_text().partition("| pods |")[2].partition("\n\n")[0]
    table = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert table == list(PodOptions.__annotations__)
