"""Classes that were sent by value are found where others look for them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HELPERS = """
    from __future__ import annotations
    import enum
    from dataclasses import dataclass

    @dataclass
    class Box:
        x: int
    class Mode(enum.Enum):
        FAST = "fast"
"""
SCRIPT = """
    from __future__ import annotations
    import pickle, sys
    from dataclasses import dataclass
    from helpers import Box, Mode
    from shardgate.pickling import dumps

    @dataclass
    class Label:
        number: int
    def function(data):
        @dataclass
        class Inner:
            value: int
        label, box, mode = pickle.loads(data)
        assert isinstance(label, Label) and isinstance(box, Box) and mode is Mode.FAST
        return pickle.dumps((Label(label.number + Inner(1).value), Box(box.x), mode))
    if sys.argv[1] == "send":
        pickle.dump((dumps(function).data, pickle.dumps((Label(3), Box(4), Mode.FAST))), open("sent", "wb"))
    else:
        label, box, mode = pickle.load(open("returned", "rb"))
        print(type(label) is Label, label.number, type(box) is Box, mode is Mode.FAST)
"""
WORKER = """
    import pickle, sys
    from shardgate.unpickling import loads
    sent, sample = pickle.load(open(sys.argv[1] + "/sent", "rb"))
    open(sys.argv[1] + "/returned", "wb").write(loads(sent)(sample))
    assert "os" in sys.modules and not hasattr(sys.modules["os"], "Label")
"""


def test_samples_that_hold_instances_of_the_scripts_classes_are_decoded_and_encoded(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text(textwrap.dedent(HELPERS))
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    run(tmp_path, "script.py", "send")
    run("/", "-c", textwrap.dedent(WORKER), str(tmp_path))
    assert run(tmp_path, "script.py", "receive") == "True 4 True True\n"


def run(folder: Path | str, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
