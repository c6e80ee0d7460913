"""The package format: how a transform travels.

One msgpack map `{"format": 1, "manifest": {...}, "function": bytes}`. The manifest is plain data that anyone may read;
`function` is cloudpickle and only an ETL worker or a client ever loads it. The transform's identity is the SHA-256 of
the package bytes: `transform_id = name-<first 16 hex digits>`.

A *container* is a transform in any language: no function, but how to run a program that speaks HTTP (`Container`).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import msgpack

from shardgate.text import safe_line

PACKAGE_FORMAT = 1
MAX_NAME = 48
NAME_PATTERN = r"[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?"
"""A transform's name: a DNS label with room for its digest, so that it can name Kubernetes objects."""
STAGE_SEPARATOR = ","
"""Between the transforms of a pipeline: `transform_id=A,B` is B of A of the object."""
MAX_STAGES = 8

Kind = Literal["sample", "bytes", "container"]
ContainerMethod = Literal["put", "get"]
OnError = Literal["fail", "skip", "warn"]
CachePolicy = Literal["never", "always", "auto"]


@dataclass(frozen=True, slots=True)
class Container:
    """How to run a transform that is a program of its own, and what it speaks.

    It listens on HTTP. `PUT /` brings an object as its body, and the answer's body is the result; both are streamed,
    and the answer may begin before the request ends. With `method="get"` a `GET /?url=` names where to read the object
    instead. The query parameter `args` and headers (above) tell the rest. Its answer is 200 with a length or in chunks;
    any other status makes its body the error message. It gets requests once `health` answers 2xx.

    Attributes:
        image: What pods run. Embedded mode has no images and runs `command`.
        command: Program and arguments, in place of the image's entry point. `{port}` stands for the port.
        args: Further arguments; the image's own where both are empty.
        env: Environment variables. `PORT` is always set.
        port: Where it listens in a pod. Embedded mode picks a free one.
        health: Path that answers 2xx when it is ready.
        method: How it gets objects.
        content_type: Of its results.
        pod: A pod template (`metadata`, `spec`) in place of `image`; its first container is the one that listens.
    """

    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    port: int = 8000
    health: str = "/health"
    method: ContainerMethod = "put"
    content_type: str = "application/octet-stream"
    pod: dict[str, Any] | None = None

    @classmethod
    def from_map(cls, data: dict[str, Any]) -> Container:
        """Build from a decoded map; unknown keys are ignored."""
        values = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        for name in ("command", "args"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)

    def program(self, port: int) -> list[str]:
        """Command and arguments with the port put in."""
        return [part.replace("{port}", str(port)) for part in (*self.command, *self.args)]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a transform is, part of its identity.

    Attributes:
        name: Human name, see `NAME_PATTERN`.
        kind: `sample`: the function maps a sample dict to a dict, a list of dicts or None; `bytes`: bytes to bytes,
            called with the whole object (not a tar member); `container`: there is no function, see `container`.
        decoder: webdataset decoder spec for samples ("pil", "rgb", "torchrgb", ...) or "" for undecoded bytes.
        on_error: What a failing sample does: end the shard with an error, be left out, or be left out and logged.
        sample_timeout: Seconds a single sample may take; 0 is no limit.
        python: "major.minor" that pickled the function; the worker must run the same.
        requirements: Pinned distributions that the function imports, like "torch==2.6.0", sorted.
        entry: Qualified name of the function or class, for people.
        source: Its source text where that could be read, for people.
        takes_args: Whether the request's `args` reach it; requests with `args` are refused otherwise.
        container: How to run it, if it is one.
    """

    name: str
    kind: Kind = "sample"
    decoder: str = "pil"
    on_error: OnError = "fail"
    sample_timeout: float = 0.0
    python: str = ""
    requirements: tuple[str, ...] = ()
    entry: str = ""
    source: str = ""
    takes_args: bool = True
    container: Container | None = None

    @classmethod
    def from_map(cls, data: dict[str, Any]) -> Manifest:
        """Build from a decoded map; unknown keys are ignored.

        Raises:
            TypeError: `name` is missing.
        """
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        values["requirements"] = tuple(values.get("requirements", ()))
        if values.get("container") is not None:
            values["container"] = Container.from_map(values["container"])
        return cls(**values)


def pack_package(manifest: Manifest, function: bytes = b"") -> bytes:
    return bytes(msgpack.packb({"format": PACKAGE_FORMAT, "manifest": asdict(manifest), "function": function}))


def unpack_package(package: bytes) -> tuple[Manifest, bytes]:
    """Split a package without looking into the function.

    Raises:
        ValueError: Not a package, or one that says more than this version knows: what it would leave out may change
            the bytes of results, under the same id.
    """
    try:
        data = msgpack.unpackb(package)
        if data["format"] != PACKAGE_FORMAT:
            raise ValueError(f"package format {safe_line(data['format'], 40)} is not {PACKAGE_FORMAT}")
        manifest = data["manifest"]
        _check_known(Manifest, manifest)
        if manifest.get("container") is not None:
            _check_known(Container, manifest["container"])
        return Manifest.from_map(manifest), data["function"]
    except (msgpack.UnpackException, msgpack.ExtraData, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a transform package: {error}") from error


def _check_known(kind: type[Manifest | Container], data: dict[str, Any]) -> None:
    if unknown := data.keys() - {f.name for f in fields(kind)}:
        names = ", ".join(sorted(safe_line(name, 40) for name in unknown)[:5])
        raise ValueError(f"its {kind.__name__.lower()} has {names}, which this version of shardgate does not know")


def transform_id(name: str, package: bytes) -> str:
    return f"{name}-{hashlib.sha256(package).hexdigest()[:16]}"
