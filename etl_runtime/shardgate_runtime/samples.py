"""One sample through decoder, function and encoder; what user code does wrong becomes a `SampleFailed`.

Decoder and encoder are webdataset's own, so the function sees what it would see after `WebDataset(...).decode(...)`.
Results: a dict is one sample, a list of dicts several, None none. A dict that lost its `__key__` gets the input's back;
where dicts of one list would share a key, which webdataset could not tell apart again, their number in the list is
appended to it ("cat-0", "cat-1").

A sample's time limit is an alarm that raises inside user code. Code that does not come back to Python in time is the
parent's business (`parent.py`), which is why the scoreboard is told when a sample begins and ends.
"""

from __future__ import annotations

import signal
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shardgate_runtime.failures import SampleFailed, SampleTimeout, describe, user_traceback
from shardgate_runtime.orphans import one_process
from shardgate_runtime.tar_writer import encode_sample
from shardgate_runtime.webdataset_parts import Decoder, DecodingError, imagehandler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from shardgate import wire
    from shardgate_runtime.package import TransformFunction
    from shardgate_runtime.scoreboard import Slot
    from shardgate_runtime.seeds import Seeds
    from shardgate_runtime.tar_reader import RawSample
    from shardgate_runtime.tar_writer import Piece

RESULT_HINT = "return the sample dict, a list of such dicts, or None to leave the sample out"


class Clock:
    """The time limit of a sample."""

    def __init__(self, slot: Slot, timeout: float) -> None:
        self._slot = slot
        self._timeout = timeout
        self._running = False
        if timeout:
            signal.signal(signal.SIGALRM, self._ring)

    @contextmanager
    def sample(self, index: int, key: str) -> Iterator[None]:
        """Run user code under the limit; whatever it raises is a `SampleFailed`."""
        self._slot.begin_sample(index, key)
        try:
            if self._timeout:
                self._running = True
                signal.setitimer(signal.ITIMER_REAL, self._timeout)
            try:
                with one_process():
                    yield
            finally:
                if self._timeout:
                    self._running = False
                    signal.setitimer(signal.ITIMER_REAL, 0)
        except SampleFailed:
            raise
        except SampleTimeout as error:
            message = f"sample timeout after {self._timeout:g} s"
            hint = "raise sample_timeout, or make the function faster"
            raise SampleFailed(message, hint, user_traceback(error)) from None
        except BaseException as error:  # noqa: BLE001 - sys.exit() in user code is a failure like any other
            raise _user_failure(error) from None
        finally:
            self._slot.end_sample()

    def _ring(self, _signum: int, _frame: FrameType | None) -> None:
        if self._running:
            raise SampleTimeout


def _user_failure(error: BaseException) -> SampleFailed:
    hint = ""
    if isinstance(error, MemoryError):
        hint = "the sample needs more memory than a worker may use (setting etl.memory_bytes)"
        traceback.clear_frames(error.__traceback__)  # what filled the memory is still in their locals
    return SampleFailed(describe(error), hint, user_traceback(error), exhausted=isinstance(error, MemoryError))


class SampleProcessor:
    """Turns raw samples into pieces of a tar.

    Args:
        stats: Where the seconds of each phase are added up.
    """

    def __init__(
        self,
        manifest: wire.Manifest,
        function: TransformFunction,
        args: str,
        seeds: Seeds,
        clock: Clock,
        stats: wire.Stats,
    ) -> None:
        self._decode = make_decoder(manifest.decoder)
        self._function = function
        self._args = args
        self._seeds = seeds
        self._clock = clock
        self._stats = stats

    def process(self, raw: RawSample) -> tuple[list[Piece], int]:
        """The pieces of a sample's members and the number of samples they make.

        Raises:
            SampleFailed: By user code, or by data that can't be decoded or encoded.
        """
        stats = self._stats
        pieces: list[Piece] = []
        with self._clock.sample(raw.index, raw.key):
            start = time.perf_counter()
            self._seeds.apply(raw.index)
            sample = self._decode(raw.fields)
            raw.fields = {}
            decoded = time.perf_counter()
            stats.decode_seconds += decoded - start
            results = self._function(sample, self._args)
            called = time.perf_counter()
            stats.function_seconds += called - decoded
            samples = normalise(results, raw.key)
            for result in samples:
                encode(result, pieces)
            stats.encode_seconds += time.perf_counter() - called
            self._seeds.finish()
        return pieces, len(samples)


def make_decoder(spec: str) -> Any:
    """Webdataset's decoder for `.decode(spec)`, with errors that name the field; "" leaves bytes as they are.

    Raises:
        ValueError: webdataset does not know the spec.
    """
    if not spec:
        return dict
    decoder = Decoder([imagehandler(spec)])

    def decode(fields: dict[str, Any]) -> dict[str, Any]:
        try:
            sample: dict[str, Any] = decoder(fields)
        except DecodingError as error:
            cause = error.__cause__ or error
            if isinstance(cause, MemoryError):
                raise cause from None
            message = f"field {error.k!r} can't be decoded as {spec!r}: {describe(cause)}"
            raise SampleFailed(
                message, 'look at the member\'s bytes, or use decoder="" and decode in the function'
            ) from None
        return sample

    return decode


def normalise(results: Any, key: str) -> list[dict[str, Any]]:
    """The function's result as a list of samples with distinct keys.

    Raises:
        SampleFailed: It is none of the allowed shapes.
    """
    if results is None:
        return []
    samples = results if isinstance(results, list) else [results]
    if not all(isinstance(sample, dict) for sample in samples):
        raise SampleFailed(f"the function returned {_shape(results)}", RESULT_HINT)
    if len(samples) > 1:
        samples = [dict(sample) for sample in samples]  # one dict may be in the list twice
    for sample in samples:
        _check_keys(sample, key)
    if len(samples) > 1:
        _tell_apart(samples)
    return samples


def _shape(results: Any) -> str:
    if isinstance(results, list):
        return f"a list with {', '.join(sorted({type(item).__name__ for item in results}))} in it"
    return f"a {type(results).__name__}"


def _check_keys(sample: dict[str, Any], key: str) -> None:
    if not isinstance(sample.setdefault("__key__", key), str):
        raise SampleFailed(f"__key__ is a {type(sample['__key__']).__name__}, not a str", RESULT_HINT)
    for name in sample:
        if not isinstance(name, str) or not name:
            raise SampleFailed(
                f"the function returned a sample with the key {name!r}", "keys are file extensions like 'jpg'"
            )


def _tell_apart(samples: list[dict[str, Any]]) -> None:
    count = Counter(sample["__key__"] for sample in samples)
    for number, sample in enumerate(samples):
        if count[sample["__key__"]] > 1:
            sample["__key__"] = f"{sample['__key__']}-{number}"


def encode(sample: dict[str, Any], pieces: list[Piece]) -> None:
    """Append a sample's members; see `tar_writer.encode_sample`.

    Raises:
        SampleFailed: A value can't be encoded under its key.
    """
    try:
        encode_sample(sample, pieces)
    except ValueError as error:
        hint = "webdataset's encoder goes by the key: arrays under npy, images under jpg or png, dicts under json"
        raise SampleFailed(str(error), hint) from None
