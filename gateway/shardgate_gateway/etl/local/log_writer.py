"""The program that writes a runtime's log: it copies its standard input to a file that never grows beyond its limit.

`python -I -S log_writer.py FILE MAX KEPT`. The runtime, its workers and all that they start have a pipe to it as their
output. So a flood of lines waits in the pipe until it is written, where a file of their own would grow as fast as they
print. It is a process of its own, for it has to outlive both the gateway process that started it and the runtime, whose
last words matter most. It ends when nobody is left who could write.

When the file is full, its last part is put aside as FILE.1 and it is emptied. On a full disk lines are lost, and user
code goes on. It imports nothing but two built-in modules, and starts in some milliseconds.
"""

from __future__ import annotations

import os
import signal
import sys

CHUNK = 64 << 10


def main(path: str, limit: int, kept: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # sent to everybody; the last words come afterwards
        signal.signal(number, signal.SIG_IGN)
    file = _open(path)
    while data := os.read(0, min(CHUNK, limit)):
        try:
            if os.fstat(file).st_size + len(data) > limit:
                cut(file, path, kept)
            os.write(file, data)
        except OSError:  # the disk is full: what is printed matters less than what is computed
            continue


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:  # somebody has to read the pipe in any case
        return os.open(os.devnull, os.O_RDWR)


def cut(file: int, path: str, kept: int) -> None:
    """Put the last `kept` bytes aside, and empty the file, whatever becomes of them."""
    part = path + ".1.part"
    try:
        tail = os.pread(file, kept, max(0, os.fstat(file).st_size - kept))
        older = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(older, tail)
        finally:
            os.close(older)
        os.replace(part, path + ".1")  # noqa: PTH105 (pathlib would take longer to import than all else)
    finally:
        os.ftruncate(file, 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
