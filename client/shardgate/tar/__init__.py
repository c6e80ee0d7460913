"""What a tar holds, read from its headers: one strict grammar for the gateway's index and for the workers.

`header.py` reads one block, `pax.py` the records of extended headers, `scanner.py` puts them together to members, and
`names.py` says which members are samples. Nothing in here does I/O or knows numpy.
"""

from shardgate.tar.errors import BadTar
from shardgate.tar.names import split_name
from shardgate.tar.scanner import Scanner, TarMember

__all__ = ["BadTar", "Scanner", "TarMember", "split_name"]
