"""A function that does what its args say, and what a reader may get of it: the oracle of random reads.

Each sample has an act, which is a function of the plan's seed and its key: how many samples come out, how large, and
its mood. Every payload says in its first line of which sample, which number and which run it is, and the rest follows
from that line. So a reader sees whether a payload is whole, and whether all of a sample is of one run, whatever the
function made it of.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = 512
LEFT_OUT_AGAIN = {"vanishes", "turns", "starves", "sleeps", "dies"}
"""Moods of samples that come the first time, and another time may not."""
FAILS_AGAIN = LEFT_OUT_AGAIN - {"vanishes"}
RUNS = {"draws": None, "grows": {"first", "again"}}
"""Names of runs that payloads of a mood may have, None for any; else it is the first run's."""


@dataclass(frozen=True)
class Act:
    """What the function makes of one sample.

    Attributes:
        mood: `steady`, `raises`, `kills` (its process), `draws` (from what nothing seeds), or what it does from the
            second run on: `grows`, `vanishes` (None), `turns` (raises), `starves` (MemoryError), `sleeps`, `dies`.
        sizes: Of the payloads; one for each sample that comes out.
    """

    mood: str
    sizes: tuple[int, ...]


def act_of(plan: dict[str, Any], key: str) -> Act:
    digest = hashlib.sha256(f"{plan['seed']}/{key}".encode()).digest()
    mood = plan["moods"][digest[0] % len(plan["moods"])]
    if "size" in plan:
        return Act(mood, (plan["size"],))
    count = (0, 1, 1, 1, 1, 1, 1, 2, 3, 4)[digest[1] % 10]
    sizes = []
    for number in range(count):
        limit = (100, 4_000, 60_000, 60_000, 100_000, 300_000, 1_000_000, plan["biggest"])[digest[2 + number] % 8]
        sizes.append(int.from_bytes(digest[6 + 4 * number : 10 + 4 * number], "little") % (limit + 1))
    return Act(mood, tuple(sizes))


def payload(key: str, number: int, field: str, run: str, size: int, seen: str) -> bytes:
    """`seen` is the digest of what the function got."""
    head = f"{key}/{number}/{field}/{run}/{size}/{seen}\n".encode()
    return head + hashlib.shake_128(head).digest(size)


def ran_before(folder: str, key: str) -> bool:
    try:
        os.close(os.open(Path(folder, key), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return True
    return False


def what_nothing_seeds(folder: str) -> str:
    with Path(folder, "counter").open("ab") as file:
        file.write(b"x")
        return f"{time.time_ns()}-{os.getpid()}-{file.tell()}"


def go_wrong(mood: str) -> None:
    if mood in {"raises", "turns"}:
        raise ValueError("this sample is of that kind")
    if mood == "starves":
        raise MemoryError
    if mood in {"dies", "kills"}:
        os.kill(os.getpid(), signal.SIGKILL)
    if mood == "sleeps":
        time.sleep(60)


def perform(sample: dict[str, Any], args: str) -> Any:
    """The transform.

    `args` is a plan as JSON: `seed`, `moods`, the `biggest` size or one `size` for all, and a `folder` in which it
    remembers which samples ran before.
    """
    plan = json.loads(args)
    key = sample["__key__"]
    act = act_of(plan, key)
    again = act.mood not in {"steady", "draws"} and ran_before(plan["folder"], key)
    if act.mood in {"raises", "kills"} or (again and act.mood in LEFT_OUT_AGAIN):
        go_wrong(act.mood)
        return None
    run = "again" if again else "first"
    grown = 10_000 if again and act.mood == "grows" else 0
    if act.mood == "draws":
        run = what_nothing_seeds(plan["folder"])
        grown = int(run[-3:].replace("-", "")) * 7
    seen = hashlib.sha256(sample["bin"]).hexdigest()[:16]
    return [
        {
            "__key__": f"{key}-{number}",
            "a": payload(key, number, "a", run, size + grown, seen),
            "b": payload(key, number, "b", run, 10, seen),
        }
        for number, size in enumerate(act.sizes)
    ]


def strict_members(body: bytes) -> list[tuple[str, bytes]]:
    """Members of a tar that has nothing but them and its end: readers take a broken header in the middle for the end.

    Raises:
        AssertionError: It is not one.
    """
    end, found = 0, []
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:") as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            found.append((member.name, file.read()))
            assert len(found[-1][1]) == member.size, f"{member.name} is cut short"
            end = member.offset_data + -(-member.size // BLOCK) * BLOCK
    rest = body[end:]
    assert not rest.strip(b"\0"), f"{len(rest)} bytes behind the last member are no end of an archive"
    assert len(rest) >= 2 * BLOCK, "the archive has no end"
    return found


def check_complete(body: bytes, plan: dict[str, Any], inputs: dict[str, bytes], on_error: str, *, gaps: bool) -> None:
    """Compare a body that ended as a success with the function applied here.

    Args:
        body: A tar.
        plan: The function's.
        inputs: What its samples had, by key, in order.
        on_error: The policy of the transform.
        gaps: Somebody was told that samples are missing for a cause that may pass.

    Raises:
        AssertionError: A reader that took it for complete would be deceived.
    """
    check_members(strict_members(body), plan, inputs, on_error, gaps=gaps)


def check_members(
    members: list[tuple[str, bytes]], plan: dict[str, Any], inputs: dict[str, bytes], on_error: str, *, gaps: bool
) -> None:
    """As `check_complete`, for names and bytes of members that some reader got. Raises AssertionError."""
    members = list(members)
    for key, data in inputs.items():
        act = act_of(plan, key)
        got = []
        while members and members[0][0].startswith(f"{key}-"):
            got.append(members.pop(0))
        if got or not act.sizes:
            _check_sample(got, act, key, data)
        else:
            assert _may_be_missing(act, on_error, gaps=gaps), f"sample {key} ({act}) is missing"
        assert not (act.mood in {"raises", "kills"} and on_error == "fail"), f"{key} failed and the body is a success"
    assert not members, f"{members[0][0]} is of no sample, or comes again, or out of order"


def check_beginning(body: bytes, plan: dict[str, Any], inputs: dict[str, bytes]) -> None:
    """Check the members that came whole of a body that was broken off or left. Raises AssertionError."""
    keys, runs = list(inputs), dict[str, set[str]]()
    with tarfile.open(fileobj=io.BytesIO(body + bytes(2 * BLOCK)), mode="r:") as archive:
        for member in archive:
            if member.offset_data + member.size > len(body):
                break
            file = archive.extractfile(member)
            assert file is not None
            key, _, number = member.name.partition(".")[0].rpartition("-")
            assert key in keys, f"{member.name} is of no sample, or out of order"
            del keys[: keys.index(key)]
            runs.setdefault(key, set()).add(_run_of(file.read(), key, int(number), member.name[-1], inputs[key]))
    mixed = [key for key, names in runs.items() if len(names) > 1]
    assert not mixed, f"{mixed} are of two runs"


def _may_be_missing(act: Act, on_error: str, *, gaps: bool) -> bool:
    if on_error == "fail":
        return act.mood == "vanishes"
    return gaps or act.mood in {"raises", "turns", "vanishes"}


def _check_sample(got: list[tuple[str, bytes]], act: Act, key: str, data: bytes) -> None:
    names = [f"{key}-{number}.{field}" for number in range(len(act.sizes)) for field in "ab"]
    assert [name for name, _ in got] == names, f"sample {key} ({act}) has {[name for name, _ in got]}"
    runs = {_run_of(body, key, index // 2, "ab"[index % 2], data) for index, (_, body) in enumerate(got)}
    assert len(runs) <= 1, f"sample {key} is of the runs {runs}"
    allowed = RUNS.get(act.mood, {"first"})
    assert allowed is None or runs <= allowed, f"sample {key} ({act}) is of the run {runs}"
    if runs == {"first"}:
        sizes = [len(body.partition(b"\n")[2]) for name, body in got if name.endswith(".a")]
        assert sizes == list(act.sizes), f"sample {key} ({act}) has the sizes {sizes}"


def _run_of(body: bytes, key: str, number: int, field: str, data: bytes) -> str:
    """The run that a payload is of; raises AssertionError where it is not whole, or of another sample."""
    run, size = body.partition(b"\n")[0].decode("latin-1").split("/")[3:5]
    seen = hashlib.sha256(data).hexdigest()[:16]
    assert body == payload(key, number, field, run, int(size), seen), f"{key}-{number}.{field} is a mixture, or cut"
    return run
