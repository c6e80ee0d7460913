"""Transforms as the user holds them: registered, started, and named by their `uuid`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from shardgate import wire
from shardgate.capture import capture
from shardgate.pipeline import Pipeline
from shardgate.pods import PodOptions, as_query
from shardgate.progress import told
from shardgate.tracebacks import Concise
from shardgate.transform_like import TransformLike

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from shardgate.gateway_like import GatewayLike
    from shardgate.urls import Bucket


class Transform(TransformLike):
    """A transform that the gateway knows and whose workers are ready.

    Use `WDTransform`, `BytesTransform`, `Client.etl_from_image` or `Client.etl_from_spec`; `a >> b` applies one after
    the other.

    Attributes:
        uuid: The transform's id, for `object_url(..., transform_id=)`: its name and the digest of its code.
        name: Its name; in the gateway, the name means the code that was registered last under it.
        manifest: What the gateway was told about it.
    """

    def __init__(
        self, client: GatewayLike, manifest: wire.Manifest, package: bytes, verbose: bool, options: Mapping[str, Any]
    ) -> None:
        self._client = client
        self.manifest = manifest
        self.name = manifest.name
        self.uuid = wire.transform_id(self.name, package)
        if verbose:
            print("Initializing ETL...")
        client.transforms.register(package, **as_query(options))
        with told(client.transforms, self.uuid) if verbose else nullcontext():
            client.transforms.start(self.uuid)
        if verbose:
            print(f"ETL {self.name} successfully initialized")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uuid!r})"

    def __rshift__(self, other: TransformLike) -> Pipeline:
        return Pipeline(self._client, (self.uuid,)) >> other

    def get(self, bucket: str | Bucket, object_name: str, **options: Any) -> bytes:
        """The transformed object, whole; takes the options of `Client.object_url`."""
        return self._client.get(bucket, object_name, transform_id=self.uuid, **options)

    def logs(self, *, tail: int = 200) -> str:
        """The last lines that its workers wrote."""
        return self._client.transforms.logs(self.uuid, tail=tail)

    def stats(self) -> dict[str, Any]:
        """Samples, bytes and seconds by phase, summed over all requests."""
        return self._client.transforms.stats(self.uuid)

    def stop(self) -> None:
        """Stop its workers, until `start`. Requests for its results fail meanwhile."""
        self._client.transforms.stop(self.uuid)

    def start(self) -> None:
        """Start its workers, and wait until they are ready. Raises TransformFailed."""
        self._client.transforms.start(self.uuid)

    def delete(self) -> None:
        """Stop its workers and forget it."""
        self._client.transforms.delete(self.uuid)


class FunctionTransform(Transform):
    """A transform whose code is a function of this program's."""

    kind: ClassVar[wire.Kind]

    def __init__(
        self,
        client: GatewayLike,
        function: Callable[..., Any],
        verbose: bool,
        options: Mapping[str, Any],
        **captured: Any,
    ) -> None:
        manifest, package = capture(function, kind=self.kind, **captured)
        super().__init__(client, manifest, package, verbose, options)


class WDTransform(FunctionTransform):
    """A function over the samples of WebDataset shards, that runs where the shards are.

    Its random numbers follow from the request, so the same URL gives the same augmentations. A training loop puts the
    epoch into its URLs to get new ones: `client.expand_object_urls(..., transform_id=etl.uuid, epoch=epoch)`.

    Args:
        client: The gateway.
        transform_func: Maps a sample (a dict of decoded fields and `__key__`) to a sample, a list of them, or None to
            leave it out. A class is instantiated once per worker and its `setup()` called, for models.
        transform_name: Letters, digits and dashes; the function's own name by default.
        wd_decoder: How fields are decoded before the call, as in `WebDataset.decode`; "" leaves them as bytes.
        verbose: Print two lines about it, and in between how its start goes, where that takes a while.
        on_error: What a failing sample does: "fail" ends the shard with an error, "skip" leaves the sample out, "warn"
            leaves it out and logs it.
        sample_timeout: Seconds that one sample may take; 0 is no limit.
        cache: Whether results are kept: "never", "always", or "auto".
        workers: Worker processes, in each pod; 0 leaves it to the gateway.
        requirements: Distributions beside those that the function is found to import, like "torch==2.6.0".
        pods: In a cluster, what its pods are to be; see `PodOptions`.

    Raises:
        CaptureError: The function can't be sent, and what in it is to blame.
        InvalidName: The name does not fit.
        TransformFailed: Its workers could not start; the message holds what Python said there.
        GatewayUnreachable: Nobody answers.
    """

    kind = "sample"

    def __init__(
        self,
        client: GatewayLike,
        transform_func: Callable[..., Any],
        transform_name: str = "",
        wd_decoder: str = "pil",
        verbose: bool = False,
        *,
        on_error: wire.OnError = "fail",
        sample_timeout: float = 0,
        cache: wire.CachePolicy = "auto",
        workers: int = 0,
        requirements: Iterable[str] = (),
        **pods: Unpack[PodOptions],
    ) -> None:
        with Concise():
            super().__init__(
                client,
                transform_func,
                verbose,
                {"cache": cache, "workers": workers, **pods},
                name=transform_name,
                decoder=wd_decoder,
                on_error=on_error,
                sample_timeout=sample_timeout,
                extra_requirements=requirements,
            )


class BytesTransform(FunctionTransform):
    """A function from the bytes of an object to bytes; arguments and errors are those of `WDTransform`."""

    kind = "bytes"

    def __init__(
        self,
        client: GatewayLike,
        transform_func: Callable[..., Any],
        transform_name: str = "",
        verbose: bool = False,
        *,
        cache: wire.CachePolicy = "auto",
        workers: int = 0,
        requirements: Iterable[str] = (),
        **pods: Unpack[PodOptions],
    ) -> None:
        with Concise():
            super().__init__(
                client,
                transform_func,
                verbose,
                {"cache": cache, "workers": workers, **pods},
                name=transform_name,
                decoder="",
                extra_requirements=requirements,
            )
