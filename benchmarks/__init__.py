"""Programs behind `make bench`: each prints ratios against a peer beside it, on one machine, in one run.

The real stores and the bad network are those of the tests.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
