"""Whatever user code imports of webdataset, and in whatever order, it gets the modules that everybody has."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEFORE = "import sys\nfrom shardgate_runtime import webdataset_parts\nassert 'torch' not in sys.modules\n"
AFTER = """
import webdataset, webdataset.autodecode, webdataset.tariterators
assert webdataset.tariterators is sys.modules["webdataset.tariterators"]
assert webdataset.tariterators.group_by_keys is webdataset.compat.group_by_keys
assert webdataset.autodecode.Decoder is webdataset_parts.WebdatasetDecoder
assert webdataset.WebDataset and webdataset.TarWriter
"""


@pytest.mark.parametrize(
    "wanted",
    [
        "from webdataset.tariterators import group_by_keys",
        "import webdataset.tariterators",
        "from webdataset import filters",
        "import webdataset as wds; wds.TarWriter",
        "import webdataset.cache as cache; assert cache.__name__ == 'webdataset.cache'",
        "from webdataset.handlers import warn_and_continue",
        "import webdataset.autodecode as a; a.Decoder",
    ],
)
def test_any_import_of_webdataset_works_in_a_worker(wanted: str) -> None:
    done = subprocess.run([sys.executable, "-c", BEFORE + wanted + AFTER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
