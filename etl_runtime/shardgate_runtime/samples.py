"""One sample through decoder, function and encoder; what user code does wrong becomes a `SampleFailed`.

The function sees what it would see after `WebDataset(...).decode(...)`, decoded when it looks (`decoding.py`).
Results: a dict is one sample, a list of dicts several, None none. A dict that lost its `__key__` gets the input's back;
where dicts of one list would share a key, which webdataset could not tell apart again, their number in the list is
appended to it ("cat-0", "cat-1"). A key that another sample of the shard has already ends the job, whatever the error
policy: a shard of which most samples are left out because they are all called "cat" is nobody's wish.

A sample's time limit is an alarm that raises inside user code. Code that does not come back to Python in time is the
parent's business (`parent.py`), which is why the scoreboard is told when a sample begins and ends.
"""

from __future__ import annotations

import signal
import traceback
from collections import Counter
from contextlib import contextmanager
from os import _exit  # user code may replace it in `os`
from typing import TYPE_CHECKING, Any

from shardgate import wire
from shardgate.text import safe_line
from shardgate_runtime import pytree
from shardgate_runtime.clock import clock
from shardgate_runtime.decoding import HINT, make_decoder
from shardgate_runtime.descriptors import Descriptors
from shardgate_runtime.encoding import Encoder
from shardgate_runtime.failures import JobFailed, SampleFailed, SampleTimeout, describe, type_name, user_traceback
from shardgate_runtime.lazy_sample import Unread, stored
from shardgate_runtime.orphans import one_process
from shardgate_runtime.output_names import Keys, check_names
from shardgate_runtime.tar_writer import encode_sample
from shardgate_runtime.user_lines import place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from shardgate_runtime.package import TransformFunction
    from shardgate_runtime.scoreboard import Slot
    from shardgate_runtime.seeds import Seeds
    from shardgate_runtime.tar_reader import RawSample
    from shardgate_runtime.tar_writer import Piece

RESULT_HINT = "return the sample dict, a list of such dicts, or None to leave the sample out"
FILES_CLOSED = 72
"""Exit code of a worker whose connection was closed by a sample, which it still names on the scoreboard."""
NAMED_FIELDS = 20
"""Fields of a sample that a hint names."""


class Clock:
    """The time limit of a sample, and a look at what it did to its worker.

    Args:
        slot: Is told when a sample begins and ends.
        timeout: Seconds for one sample; 0 is no limit.
        files: What the worker can't go on without.
    """

    def __init__(self, slot: Slot, timeout: float, files: Descriptors | None = None) -> None:
        self._slot = slot
        self._timeout = timeout
        self._files = files or Descriptors()
        self._running = False
        if timeout:
            signal.signal(signal.SIGALRM, self._ring)

    @contextmanager
    def sample(self, index: int, key: str, fields: Callable[[], dict[str, Any]] = dict[str, Any]) -> Iterator[None]:
        """Run user code under the limit; whatever it raises is a `SampleFailed`. `fields` gives those it has."""
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
            raise SampleFailed(message, hint, user_traceback(error), passing=True, place=place_of(error)) from None
        except BaseException as error:  # noqa: BLE001 - sys.exit() in user code is a failure like any other
            raise _user_failure(error, fields) from None
        finally:
            if not self._files.are_intact():
                _exit(FILES_CLOSED)
            self._slot.end_sample()

    def _ring(self, _signum: int, _frame: FrameType | None) -> None:
        if self._running:
            raise SampleTimeout


def _user_failure(error: BaseException, fields: Callable[[], dict[str, Any]]) -> SampleFailed:
    exhausted = issubclass(type(error), MemoryError)  # `isinstance` may run code of the error's class
    if exhausted:
        traceback.clear_frames(error.__traceback__)  # what filled the memory is still in their locals
        hint = "the sample needs more memory than a worker may use (setting etl.memory_bytes)"
    else:
        try:
            hint = _hint(error, fields())
        except BaseException:  # noqa: BLE001 (user code again: properties of an exception)
            hint = ""
    return SampleFailed(describe(error), hint, user_traceback(error), exhausted=exhausted, place=place_of(error))


def _hint(error: BaseException, fields: dict[str, Any]) -> str:
    if isinstance(error, ImportError):
        return "it has to be installed where the workers run; `requirements` names what is not found by itself"
    missing = error.args[0] if isinstance(error, KeyError) and error.args else None
    if fields and isinstance(missing, str) and missing not in fields:
        return f"the sample has the fields {_shown(fields)}"
    text = describe(error)
    if "image file is truncated" in text or "DecompressionBomb" in text:
        return HINT
    return ""


def _shown(fields: dict[str, Any]) -> str:
    """Names of fields, and why the first one that can't be decoded can't."""
    names = sorted(name for name in fields if name[:2] != "__")
    text = safe_line(", ".join(names[:NAMED_FIELDS]))
    for value in fields.values():
        try:
            value.read() if isinstance(value, Unread) else None
        except SampleFailed as error:
            return f"{text}; {error.message}"
    return text


class SampleProcessor:
    """Turns raw samples into pieces of a tar.

    Args:
        stats: Where the seconds of each phase are added up.

    Attributes:
        makes_keys: A key was written that is not made of that of its sample. Whether it comes twice is known here
            alone, so no other worker may begin behind it.
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
        self._encode = Encoder(manifest.decoder)
        self._keys = Keys()
        self.makes_keys = False
        self._function = function
        self._args = args
        self._seeds = seeds
        self._clock = clock
        self._stats = stats
        pytree.watch()

    def process(self, raw: RawSample) -> tuple[list[Piece], int]:
        """The pieces of a sample's members and the number of samples they make.

        Raises:
            SampleFailed: By user code, or by data that can't be decoded or encoded.
            JobFailed: It has a key that another sample of the output has.
        """
        url = raw.fields.get("__url__", "")
        pieces, samples = self.run(raw)
        self._check_repeats(samples, raw, url)
        return pieces, len(samples)

    def run(self, raw: RawSample) -> tuple[list[Piece], list[dict[str, Any]]]:
        """The pieces and the samples that they are of; nothing is remembered, so a sample may be run again.

        Raises:
            SampleFailed: As `process`.
        """
        stats, decoder = self._stats, self._decode
        pieces: list[Piece] = []
        sample: dict[str, Any] = {}
        with self._clock.sample(raw.index, raw.key, lambda: stored(sample)):
            start = clock.perf_counter()
            decoder.seconds = 0.0
            self._seeds.apply(raw.index)
            sample = decoder(raw.fields, raw.names)
            raw.fields = {}
            begin = clock.perf_counter()
            results = self._function(sample, self._args)
            called = clock.perf_counter()
            stats.function_seconds += max(0.0, called - begin - decoder.seconds)  # threads decode at one time
            stats.decode_seconds += begin - start + decoder.seconds
            samples = normalise(results, raw.key)
            for result in samples:
                self._append(result, pieces)
            stats.encode_seconds += clock.perf_counter() - called
            self._seeds.finish()
        return pieces, samples

    def _append(self, sample: dict[str, Any], pieces: list[Piece]) -> None:
        """Append a sample's members; see `tar_writer.encode_sample`."""
        check_names(sample)
        before = len(pieces)
        try:
            encode_sample(sample, pieces, self._encode, self._decode)
        except ValueError as error:
            hint = "the encoder goes by the key: arrays under npy, pictures under jpg or png, dicts under json"
            raise SampleFailed(str(error), hint, _cause_in_user_code(error)) from None
        if len(pieces) == before:
            raise SampleFailed("the function returned a sample without fields, which no reader would see", RESULT_HINT)

    def _check_repeats(self, samples: list[dict[str, Any]], raw: RawSample, url: object) -> None:
        for sample in samples:
            key = sample["__key__"]
            self.makes_keys |= not key.startswith(raw.key) and not key.endswith(raw.key)
            if not self._keys.add(key):
                message = (
                    f"the __key__ {safe_line(repr(key), 200)} is that of an earlier sample of the output already "
                    f'(sample {raw.index}, "{safe_line(raw.key, 200)}", of {safe_line(url, 1000)})'
                )
                hint = (
                    "readers take members of one key for one sample: make keys distinct, as by adding the sample's own"
                )
                raise JobFailed(wire.Failure("sample_failed", message, hint, raw.index, safe_line(raw.key, 200)))


def normalise(results: Any, key: str) -> list[dict[str, Any]]:
    """The function's result as a list of samples with distinct keys.

    Raises:
        SampleFailed: It is none of the allowed shapes.
    """
    if results is None:
        return []
    found = results if isinstance(results, list) else [results]
    if not all(isinstance(sample, dict) for sample in found):
        raise SampleFailed(f"the function returned {_shape(results)}", RESULT_HINT)
    samples = [_own(sample, key) for sample in found]
    if len(samples) > 1:
        _tell_apart(samples)
    return samples


def _shape(results: Any) -> str:
    if isinstance(results, list):
        return f"a list with {', '.join(sorted({type_name(item) for item in results}))} in it"
    return f"a {type_name(results)}"


def _own(result: dict[str, Any], key: str) -> dict[str, Any]:
    """A plain dict of a result: the function may return one dict several times, and its names are made plain text."""
    sample = stored(result)
    for name in sample:
        if type(name) is not str or not name:
            sample = _plainly_named(sample)
            break
    own_key = sample.setdefault("__key__", key)
    if not isinstance(own_key, str):
        raise SampleFailed(f"__key__ is a {type_name(own_key)}, not a str", RESULT_HINT)
    sample["__key__"] = str.__str__(own_key)
    return sample


def _plainly_named(sample: dict[str, Any]) -> dict[str, Any]:
    for name in sample:
        if not isinstance(name, str) or not name:
            raise SampleFailed(
                f"the function returned a sample with the key {safe_line(repr(name), 200)}",
                "keys are file extensions like 'jpg'",
            )
    return {str.__str__(name): value for name, value in sample.items()}


def _tell_apart(samples: list[dict[str, Any]]) -> None:
    count = Counter(sample["__key__"] for sample in samples)
    for number, sample in enumerate(samples):
        if count[sample["__key__"]] > 1:
            sample["__key__"] = f"{sample['__key__']}-{number}"


def _cause_in_user_code(error: ValueError) -> str:
    """The traceback of what an encoder called, as a `__reduce__` or `__str__` of the value's."""
    return user_traceback(error.__cause__) if error.__cause__ is not None else ""
