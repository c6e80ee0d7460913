"""Which version of its Secrets a pod's environment holds, told without telling the values.

A result depends on the values of the Secrets that a transform names, and their names stay when the values change. The
gateway may not read Secrets, but whoever has the values can say whether they are the same: the pod. Beside the
variables it gets the Secrets as a folder each, whose files are named like the variables that come from them.

The digest is shown to everybody who may see the transform, and a short value could be found by trying. So it is slow
(scrypt), and keyed with a text that only the gateways and the pods of this transform have.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER_VARIABLE = "SHARDGATE_SECRETS"
"""Names the folder with one folder for each Secret."""
KEY_VARIABLE = "SHARDGATE_SECRETS_KEY"
"""Names the file with the key."""
COST = 1 << 14
"""Of scrypt: 16 MiB and some 50 ms for each guess."""


def secrets_of(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the Secrets add to `wire.Hello.environment`: nothing where there are none."""
    folder, key = environ.get(FOLDER_VARIABLE, ""), environ.get(KEY_VARIABLE, "")
    if not folder or not key:
        return {}
    names = sorted({file.name for file in Path(folder).glob("*/*") if not file.name.startswith("..")})
    values = json.dumps([[name, environ[name]] for name in names if name in environ])
    digest = hashlib.scrypt(values.encode(), salt=Path(key).read_bytes(), n=COST, r=8, p=1, maxmem=64 << 20, dklen=8)
    return {"secrets": digest.hex()}
