"""Fixtures for every test. Helper code that several test folders share lives in `tests/support/`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
