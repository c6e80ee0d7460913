"""What processes that died left behind in `fills/`.

A control file that can be locked belongs to nobody. If its fill can be resumed (same boot, a version is known) it is
kept for a while, because the next reader goes on where it stopped; anything else goes. A body file goes when no
control file names it: a filler records the name before it creates the body, so no living filler's body looks like that,
unless it was invalidated and must not become an entry anyway.

Nothing that lies there keeps a gateway from starting: a record that can't be read (of another version, or damaged) is
like none, and a file that can't be removed stays.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from shardgate_gateway.cache.control import Control
from shardgate_gateway.cache.layout import Layout, exists, unlink
from shardgate_gateway.cache.space import peek

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

KEEP_SECONDS = 3600.0
"""How long a fill without a filler waits for a reader to resume it."""


def sweep(layout: Layout) -> int:
    """Remove leftovers; returns how many files. Safe beside living processes. Blocks."""
    with os.scandir(layout.fills) as found:
        names = [item.name for item in found]
    bodies = [name for name in names if "." in name]
    controls = [name for name in names if "." not in name]
    removed = sum(_removed(_sweep_control, layout, name) for name in controls)
    return removed + sum(_removed(_sweep_body, layout, name) for name in bodies)


def _removed(sweep_one: Callable[[Layout, str], bool], layout: Layout, name: str) -> bool:
    try:
        return sweep_one(layout, name)
    except OSError as error:
        log.warning("%s is left where it is: %s", layout.body(name), error)
        return False


def _sweep_body(layout: Layout, name: str) -> bool:
    control = layout.control(name.split(".", 1)[0])
    record = peek(control)
    if record is None and exists(control):  # a filler of another version lives; else it would just have been swept
        return False
    return (record is None or record.body != name) and unlink(layout.body(name))


def _sweep_control(layout: Layout, name: str) -> bool:
    path = layout.control(name)
    try:
        control = Control(path, os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return False
    try:
        if not control.try_lock() or not control.linked():
            return False
        record = control.read()
        recent = time.time() - os.fstat(control.fd).st_mtime < KEEP_SECONDS
        if record is not None and record.resumable and recent and exists(layout.body(record.body)):
            return False
        control.remove()
        return True
    finally:
        control.close()
