"""Whether a function has the same id in every process: it is captured in two fresh interpreters, and compared.

What one interpreter can't see, since it looks like any other value, differs between two with other hash seeds: salted
hashes, numbers drawn at import, the order in which a dict was filled from a set.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar

from shardgate import pickling, wire
from shardgate.capture import capture, load_function
from shardgate.errors import CaptureError
from shardgate.trail import describe

PLAIN = frozenset({str, bytes, int, float, complex, bool, type(None)})
SEEDS = ("1", "2")


@dataclass(frozen=True)
class Comparison:
    """Attributes: ids: of both interpreters. difference: the way to the first object that differs; "" if none does."""

    ids: tuple[str, str]
    difference: str

    @property
    def is_stable(self) -> bool:
        return self.ids[0] == self.ids[1]


def compare(spec: str) -> Comparison:
    """Capture `FILE:FUNCTION` in two interpreters.

    Raises:
        CaptureError: It can't be captured.
    """
    first, second = (_run(spec, seed) for seed in SEEDS)
    values = enumerate(zip_longest(first["values"], second["values"]))
    place = next((index for index, (one, other) in values if one != other), None)
    found = "" if place is None else _run(spec, SEEDS[0], place)["place"]
    return Comparison((first["id"], second["id"]), found)


def _run(spec: str, seed: str, place: int = -1) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-m", "shardgate.stability", spec, str(place)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise CaptureError(f"{spec} can't be captured: {last}")
    answer: dict[str, Any] = json.loads(done.stdout.rpartition("\n")[2])
    if "error" in answer:
        raise CaptureError(answer["error"], hint=answer["hint"])
    return answer


class Recorder(pickling.StablePickler):
    """Keeps a digest of each plain value that is pickled, in order, and the way to one of them.

    Attributes:
        values: Digests.
        place: The way to the value with the number `wanted_place`.
    """

    wanted_place: ClassVar[int] = -1

    def __init__(self, wanted: frozenset[str]) -> None:
        super().__init__(wanted)
        self.values: list[str] = []
        self.place = ""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        super().save(obj, save_persistent_id)
        if type(obj) in PLAIN:
            if len(self.values) == self.wanted_place:
                self.place = describe([*self._trail, obj])
            value = self._stable_string(obj) if type(obj) is str else obj
            self.values.append(hashlib.sha256(repr(value).encode(errors="surrogatepass")).hexdigest()[:16])


def answer(spec: str, place: str) -> dict[str, Any]:
    """What a fresh interpreter says of `FILE:FUNCTION`, as JSON."""
    Recorder.wanted_place = int(place)
    try:
        function = load_function(spec)
        manifest, package = capture(function)
        recorder = pickling.pickled_by(Recorder, function)
    except CaptureError as error:
        return {"error": error.message, "hint": error.hint}
    name = wire.transform_id(manifest.name, package)
    return {"id": name, "values": recorder.values, "place": recorder.place}


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(answer(*sys.argv[1:3]))}")
