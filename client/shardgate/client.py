"""The thin client: URLs for readers, and whole-object operations for people and scripts.

A training loop needs only `object_url` and `expand_object_urls`, which talk to nobody: the URLs go to webdataset or any
other HTTP reader. Everything else is one request each, or one transfer that verifies what it got (`download.py`).
"""

from __future__ import annotations

import errno
import io
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeAlias
from urllib.parse import urlencode

from shardgate import braces, wire
from shardgate.admin import CacheApi, TransformsApi
from shardgate.dates import parse_http_date
from shardgate.download import CHUNK, ObjectReader
from shardgate.errors import InvalidName
from shardgate.tracebacks import Concise
from shardgate.transform_like import TransformLike, id_of
from shardgate.transport import PROGRESS_SECONDS, Transport
from shardgate.urls import Bucket, ObjectName, object_path, result_path
from shardgate.wds_opener import register_endpoint
from shardgate.wire import paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from shardgate.container import ContainerTransform

Urls: TypeAlias = list[str]  # inside `Client`, `list` is the method


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of an object.

    Attributes:
        name: Key within its bucket.
        size: Bytes; None where the store does not say.
        etag: Version identity, without quotes.
        last_modified: Aware datetime, or None.
        content_type: As the store has it; a listing does not say.
    """

    name: str
    size: int | None
    etag: str
    last_modified: datetime | None = None
    content_type: str | None = None


class Client:
    """A gateway, as its users see it. Cheap to make, safe to fork and to pickle.

    Args:
        endpoint: `http://host:port`; the default is $SHARDGATE_ENDPOINT, or port 51080 of this machine. With several
            gateways it may name some, with commas between them: the next is asked where one does not answer.
        token: Bearer token; the default is $SHARDGATE_TOKEN, or none.
        timeout: Seconds without any progress after which a request is given up.
    """

    def __init__(
        self, endpoint: str | None = None, token: str | None = None, *, timeout: float = PROGRESS_SECONDS
    ) -> None:
        endpoint = endpoint or os.environ.get("SHARDGATE_ENDPOINT") or wire.DEFAULT_ENDPOINT
        token = token or os.environ.get("SHARDGATE_TOKEN") or None
        self._endpoints = endpoint
        self._transport = Transport(endpoint, token, timeout)
        self.transforms = TransformsApi(self._transport)
        self.cache = CacheApi(self._transport)

    @property
    def endpoint(self) -> str:
        return self._transport.endpoint

    @property
    def token(self) -> str | None:
        return self._transport.token

    def __repr__(self) -> str:
        return f"Client({self.endpoint!r})"

    def __reduce__(self) -> tuple[Callable[..., Client], tuple[str, str | None]]:
        return type(self), (self._endpoints, self.token)

    def object_url(
        self,
        bucket: str | Bucket,
        object_name: str,
        *,
        provider: str | None = None,
        transform_id: str | TransformLike | None = None,
        args: str | dict[str, Any] | None = None,
        seed: int | None = None,
        epoch: int | None = None,
        archpath: str | None = None,
    ) -> str:
        """URL of an object, raw or transformed, for any HTTP reader.

        Readers that name files by the last part of the path (webdataset's `cache_dir`, wids, wget) keep results apart:
        the URL of a result has a digest of object, transform, args, seed and epoch there (docs/client.md).

        Args:
            bucket: `"gcp://name"`, or a name with `provider` beside it.
            object_name: Key in the bucket, as it is; it gets quoted here.
            provider: Needed if `bucket` does not say.
            transform_id: A transform (`WDTransform(...)`, or its id or name): the URL of its result.
            args: Handed to the transform; a dict goes as JSON.
            seed: Part of the randomness of a transform; 0 by default.
            epoch: Part of the randomness of a transform; 0 by default. A loop that leaves it out sees one augmentation.
            archpath: Only this member of the tar.

        Raises:
            InvalidName: The bucket, provider or object name can't be used.
            TypeError: The transform is none.
        """
        query = _query(transform_id, args, seed, epoch, archpath)
        register_endpoint(self._endpoints, self.token)
        return self.endpoint + result_path(Bucket.parse(bucket, provider), object_name, query)

    def expand_object_urls(
        self,
        bucket: str | Bucket,
        *,
        template: str,
        provider: str | None = None,
        transform_id: str | TransformLike | None = None,
        args: str | dict[str, Any] | None = None,
        seed: int | None = None,
        epoch: int | None = None,
        limit: int = braces.LIMIT,
    ) -> Urls:
        """URLs of all objects that a brace template names, like `"imagenet-val-{000000..000005}.tar"`.

        The template is in bash's notation (ranges, steps, lists, nesting) and may name up to `limit` objects; the other
        arguments are those of `object_url`. A training loop calls it once per epoch and gives `epoch`: the same URLs
        give the same augmentations again.

        Raises:
            TemplateError: It expands to more than `limit` names.
            InvalidName: As in `object_url`.
        """
        parsed, query = Bucket.parse(bucket, provider), _query(transform_id, args, seed, epoch, None)
        register_endpoint(self._endpoints, self.token)
        return [self.endpoint + result_path(parsed, name, query) for name in braces.expand(template, limit=limit)]

    def open(self, bucket: str | Bucket, object_name: str, **options: Any) -> ObjectReader:
        """Stream an object; takes the options of `object_url`.

        The reader verifies the end and survives broken connections.

        Raises:
            GatewayError, GatewayUnreachable: It can't be opened.
        """
        name, query = _asked_for(bucket, object_name, **options)
        return ObjectReader(self._transport, object_path(name.bucket, name.key, query), str(name))

    def get(self, bucket: str | Bucket, object_name: str, **options: Any) -> bytes:
        """Read an object whole; takes the options of `object_url`. Raises as `open`, and TransferIncomplete."""
        with Concise(), self.open(bucket, object_name, **options) as reader:
            return reader.readall()

    def download(
        self,
        bucket: str | Bucket,
        object_name: str,
        path: str | os.PathLike[str],
        *,
        progress: Callable[[int, int | None], None] | None = None,
        **options: Any,
    ) -> int:
        """Write an object to a file and return its bytes; takes the options of `object_url`.

        The file appears, or replaces an older one, only when it is whole. `progress` is called with the bytes so far
        and the size, where that is known.
        """
        with Concise(), self.open(bucket, object_name, **options) as reader, _replacing(Path(path)) as file:
            while chunk := reader.read(CHUNK):
                file.write(chunk)
                if progress:
                    progress(reader.position, reader.size)
            return reader.position

    def put(
        self,
        bucket: str | Bucket,
        object_name: str,
        data: bytes | str | os.PathLike[str] | BinaryIO,
        *,
        provider: str | None = None,
        content_type: str = "application/octet-stream",
    ) -> None:
        """Store an object, whole or not at all.

        `data` is the bytes, the path of a file, or a binary file open for reading. The content type is kept where the
        store can.
        """
        target = object_path(Bucket.parse(bucket, provider), object_name, {})
        with _opened(data) as file:
            headers = {"Content-Type": content_type}
            if (size := _remaining(file)) is not None:
                headers["Content-Length"] = str(size)
            self._transport.request("PUT", target, body=file, headers=headers).drain_conn()

    def head(self, bucket: str | Bucket, object_name: str, **options: Any) -> ObjectInfo:
        """Describe an object; takes the options of `object_url`."""
        name, query = _asked_for(bucket, object_name, **options)
        response = self._transport.request("HEAD", object_path(name.bucket, name.key, query))
        response.drain_conn()
        headers = response.headers
        length = headers.get("Content-Length")
        return ObjectInfo(
            name=object_name,
            size=int(length) if length is not None else None,
            etag=_opaque(headers.get("ETag", "")),
            last_modified=parse_http_date(headers.get("Last-Modified")),
            content_type=headers.get("Content-Type"),
        )

    def list(self, bucket: str | Bucket, prefix: str = "", *, provider: str | None = None) -> Iterator[ObjectInfo]:
        """All objects whose name starts with `prefix`, page by page as the iterator is read."""
        parsed, token = Bucket.parse(bucket, provider), ""
        while True:
            query = {"provider": parsed.provider, "prefix": prefix} | ({"token": token} if token else {})
            page = self._transport.json("GET", f"{paths.bucket_path(parsed.name)}?{urlencode(query)}")
            for entry in page["objects"]:
                modified = entry.get("last_modified")
                yield ObjectInfo(
                    name=entry["name"],
                    size=entry["size"],
                    etag=_opaque(entry["etag"]),
                    last_modified=datetime.fromisoformat(modified) if modified else None,
                )
            token = page.get("token")
            if not token:
                return

    def delete(self, bucket: str | Bucket, object_name: str, *, provider: str | None = None) -> None:
        """Remove an object. Raises NotFound where there is none."""
        self._transport.request("DELETE", object_path(Bucket.parse(bucket, provider), object_name, {})).drain_conn()

    def buckets(self) -> Any:
        """The buckets that the gateway has, as it describes them."""
        return self._transport.json("GET", paths.BUCKETS)

    def etl_from_image(
        self,
        image: str = "",
        name: str = "",
        *,
        command: Sequence[str] = (),
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        port: int = 8000,
        health: str = "/health",
        method: wire.ContainerMethod = "put",
        content_type: str = "application/octet-stream",
        verbose: bool = False,
        **options: Any,
    ) -> ContainerTransform:
        """Make a transform of a program in any language that speaks HTTP (docs/transforms.md says how).

        Args:
            image: What pods run. A gateway without a cluster runs `command` as a process of its machine instead.
            name: Of the transform; the image's by default.
            command: Program and arguments, in place of the image's entry point; `{port}` stands for the port.
            args: Further arguments.
            env: Environment variables; `PORT` is always set.
            port: Where it listens in a pod.
            health: Path that answers 2xx when it is ready.
            method: "put" sends it objects; "get" sends it their URLs.
            content_type: Of its results.
            verbose: Print two lines about it.
            options: `cache`, `workers` (requests that it gets at once), `resources` and so on, as of `WDTransform`.

        Raises:
            InvalidName: The name does not fit.
            BadRequest: The gateway can't run it, and why.
            TransformFailed: It did not become ready.
        """
        from shardgate.container import ContainerTransform, name_of_image  # noqa: PLC0415 (imports what pickles)

        container = wire.Container(
            image=image,
            command=tuple(command),
            args=tuple(args),
            env=dict(sorted((env or {}).items())),
            port=port,
            health=health,
            method=method,
            content_type=content_type,
        )
        name = name or name_of_image(image or (command[0] if command else ""))
        return ContainerTransform(self, container, name, verbose, options)

    def etl_from_spec(
        self,
        spec: Mapping[str, Any] | str | Path,
        name: str = "",
        *,
        port: int | None = None,
        health: str | None = None,
        method: wire.ContainerMethod = "put",
        content_type: str = "application/octet-stream",
        verbose: bool = False,
        **options: Any,
    ) -> ContainerTransform:
        """Make a transform of a whole pod template, or a Pod, whose first container speaks HTTP; or of such a file.

        Its `metadata.name` is the name, its first port and the path of a probe are where it listens and what tells that
        it is ready, unless they are given here; the other arguments are those of `etl_from_image`.

        Raises:
            CaptureError: The template has no container, or the file can't be read.
        """
        from shardgate.container import ContainerTransform, container_of_spec, load_spec  # noqa: PLC0415

        spec = load_spec(Path(spec)) if isinstance(spec, str | Path) else spec
        container, own = container_of_spec(spec, port=port, health=health, method=method, content_type=content_type)
        return ContainerTransform(self, container, name or own, verbose, options)

    def close(self) -> None:
        """Close idle connections; the client can still be used."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _asked_for(
    bucket: str | Bucket, object_name: str, *, provider: str | None = None, **options: Any
) -> tuple[ObjectName, dict[str, str]]:
    """The object, and the query that says what of it is wanted; takes the options of `object_url`."""
    return ObjectName(Bucket.parse(bucket, provider), object_name), _query(**options)


def _query(
    transform_id: str | TransformLike | None = None,
    args: str | dict[str, Any] | None = None,
    seed: int | None = None,
    epoch: int | None = None,
    archpath: str | None = None,
) -> dict[str, str]:
    if transform_id is None and (args, seed, epoch) != (None, None, None):
        raise InvalidName("args, seed and epoch belong to a transform", hint="pass transform_id as well")
    if min(seed or 0, epoch or 0) < 0:
        raise InvalidName("seed and epoch are whole numbers from 0")
    text = json.dumps(args, sort_keys=True, separators=(",", ":")) if isinstance(args, dict) else args
    transform = None if transform_id is None else id_of(transform_id)
    query = {"transform_id": transform, "args": text, "seed": seed, "epoch": epoch, "archpath": archpath}
    return {name: str(value) for name, value in query.items() if value is not None}


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file beside `path` that takes its place on success, and is gone on failure."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:100]}.", suffix=".part", delete=False) as file:
        try:
            yield file
            file.close()
            umask = os.umask(0)
            os.umask(umask)
            Path(file.name).chmod(0o666 & ~umask)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


@contextmanager
def _opened(data: bytes | str | os.PathLike[str] | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(data, bytes):
        yield io.BytesIO(data)
    elif isinstance(data, (str, os.PathLike)):
        with Path(data).open("rb") as file:
            yield file
    else:
        yield data


def _remaining(file: BinaryIO) -> int | None:
    """Bytes from the file's position to its end; None for a pipe."""
    if not file.seekable():
        return None
    here = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(here)
    return end - here
