"""torch's pytree goes into a lazy sample, whenever it is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMON = """
import io, sys
from PIL import Image
from shardgate_runtime import pytree
from shardgate_runtime.decoding import make_decoder
stream = io.BytesIO()
Image.new("RGB", (16, 16)).save(stream, "PNG")
def sample():
    return make_decoder("pil")({"__key__": "k", "png": stream.getvalue(), "cls": b"7"})
assert "torch" not in sys.modules
"""
CHECK = """
from torch.utils import _pytree
mapped = _pytree.tree_map(lambda leaf: type(leaf).__name__, sample())
assert mapped == {"__key__": "str", "png": "Image", "cls": "int"}, mapped
assert type(mapped) is dict
leaves, spec = _pytree.tree_flatten([sample(), {"a": 1}])
assert _pytree.tree_unflatten(leaves, spec)[0]["cls"] == 7
assert not [finder for finder in sys.meta_path if type(finder).__module__ == pytree.__name__]
"""


def run(*parts: str) -> None:
    pytest.importorskip("torch")
    subprocess.run([sys.executable, "-c", "".join((COMMON, *parts))], check=True)  # a process where torch is not loaded


def test_a_sample_is_a_container_where_torch_is_imported_later() -> None:
    run("pytree.watch()\npytree.watch()\n", CHECK)


def test_a_sample_is_a_container_where_torch_was_imported_before() -> None:
    run("import torch\npytree.watch()\n", CHECK)


def test_a_transform_of_torchvision_is_applied_to_a_whole_sample() -> None:
    pytest.importorskip("torchvision")
    run(
        "pytree.watch()\n",
        "from torchvision.transforms import v2\nresult = v2.Resize((4, 4))(sample())\n",
        "assert result['png'].size == (4, 4), result\n",
        "assert result['cls'] == 7\n",
    )


def test_an_import_of_torch_that_fails_leaves_nothing_behind() -> None:
    run(
        "sys.meta_path[:] = [f for f in sys.meta_path if not hasattr(f, 'path_hooks')]\npytree.watch()\n",
        "sys.modules['torch'] = None\n",
        "try:\n    import torch.utils._pytree\nexcept ImportError:\n    pass\nelse:\n    raise SystemExit(1)\n",
    )
