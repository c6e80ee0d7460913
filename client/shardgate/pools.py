"""urllib3's pools with connections that read chunked answers by whole lines (`chunks.py`)."""

from __future__ import annotations

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from shardgate.chunks import WholeResponse


class _Connection(HTTPConnection):
    response_class = WholeResponse


class _SecureConnection(HTTPSConnection):
    response_class = WholeResponse


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def pool_manager(retries: urllib3.Retry) -> urllib3.PoolManager:
    """A PoolManager of such pools."""
    manager = urllib3.PoolManager(retries=retries)
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager
