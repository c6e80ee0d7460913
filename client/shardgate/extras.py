"""The extras of this distribution, by the modules that each of them brings."""

from __future__ import annotations

from importlib.util import find_spec

from shardgate.errors import MissingExtra

GATEWAY = (
    "aiohttp",
    "alembic",
    "obstore",
    "prometheus_client",
    "psycopg",
    "pydantic",
    "pydantic_settings",
    "jwt",
    "sqlalchemy",
    "uvloop",
    "shardgate_gateway",
)
RUNTIME = ("numpy", "PIL", "webdataset", "zstandard", "shardgate_runtime")
MODULES = {
    "gateway": GATEWAY,
    "kubernetes": ("kubernetes",),
    "runtime": RUNTIME,
    "demo": (*GATEWAY, *RUNTIME, "torch", "torchvision", "matplotlib", "skimage", "sklearn"),
}


def missing(extra: str) -> str:
    """The first module of an extra that is not installed, or ""."""
    return next((module for module in MODULES[extra] if find_spec(module) is None), "")


def require(extra: str) -> None:
    """Raise MissingExtra unless all modules of an extra are installed."""
    if module := missing(extra):
        raise MissingExtra(module, extra)
