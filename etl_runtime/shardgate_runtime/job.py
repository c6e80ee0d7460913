"""One job: a shard, or the rest of one, from its input to END or FAIL.

Everything is pulled by a single loop, one sample at a time, so memory is bounded by the largest sample and the ring,
whatever the size of the shard; a slow reader stops the loop through the full ring or socket.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from shardgate import wire
from shardgate_runtime.clock import clock
from shardgate_runtime.descriptors import Descriptors
from shardgate_runtime.encoding import plain
from shardgate_runtime.failures import JobFailed, SampleFailed, describe, type_name
from shardgate_runtime.inputs import FileInput, HttpInput, Input
from shardgate_runtime.output import Output
from shardgate_runtime.samples import Clock, SampleProcessor
from shardgate_runtime.seeds import Seeds
from shardgate_runtime.tar_reader import MAX_SAMPLE, RawSample, read_samples
from shardgate_runtime.tar_writer import end_of_archive

if TYPE_CHECKING:
    from shardgate_runtime.outlet import Outlet
    from shardgate_runtime.package import Package, TransformFunction
    from shardgate_runtime.reproducibility import Reproducibility
    from shardgate_runtime.scoreboard import Slot
    from shardgate_runtime.tar_writer import Piece

log = logging.getLogger(__name__)

MAX_READ_AGAIN = 256 << 20
"""Bytes of a shard that a job reads again from its gateway to continue behind them: a quarter of a second."""
MAX_COMPARED = 8 << 20
"""Bytes of an object that a function of bytes is called with twice."""


@dataclass
class JobRun:
    """What belongs together while one job runs.

    Attributes:
        greet: Say HELLO; has to come before all that is sent. The first call counts.
        exhausted: Memory ran out on the way; the process had better be replaced afterwards.
    """

    job: wire.Job
    package: Package
    function: TransformFunction
    slot: Slot
    outlet: Outlet
    source: Input
    greet: Callable[[], None]
    reproducibility: Reproducibility
    exhausted: bool = False

    def __post_init__(self) -> None:
        job = self.job
        self.label = f"{job.bucket}/{job.key}"
        self.stats = wire.Stats()
        self._connection = self.outlet.connection
        files = Descriptors(self._connection.fileno())
        self._clock = Clock(self.slot, self.package.manifest.sample_timeout, files)
        start = wire.Checkpoint(job.sample, job.input)
        self._output = Output(self.outlet, start, careful=job.careful)

    def run(self) -> None:
        """Send the output, then END or FAIL.

        Raises:
            ReaderLeft: The gateway went away.
        """
        begin = self.source.position
        try:
            if self.package.manifest.kind == "bytes":
                self._run_bytes()
            else:
                self._run_samples()
            self._output.flush()
            failure = None
        except JobFailed as error:
            failure = error.failure
        except MemoryError:
            self.exhausted = True
            message = f"a sample of {self.label} does not fit the worker's memory"
            failure = wire.Failure("input_invalid", message, "raise etl.memory_bytes")
        self.stats.bytes_in = max(0, self.source.position - max(begin, self.job.input))
        self.stats.bytes_out = self.outlet.written
        self._finish(failure)

    def _finish(self, failure: wire.Failure | None) -> None:
        self.greet()
        self.stats.samples_gaps += self.source.gaps
        if failure is None:
            end = wire.End(self.job.output + self._output.total, self.stats)
            self._connection.send(wire.FrameType.END, end.pack())
            return
        failure = replace(failure, stats=self.stats).safe()
        log.error("%s: %s\n%s", self.job.request_id, failure.message, failure.traceback)
        self._output.flush()
        self._connection.send(wire.FrameType.FAIL, failure.pack())

    def _run_samples(self) -> None:
        job, stats, output = self.job, self.stats, self._output
        seeds = Seeds(job)
        processor = SampleProcessor(self.package.manifest, self.function, job.args, seeds, self._clock, stats)
        self.reproducibility.begin_job(job)
        index, end, nothing = job.sample, job.input, 0
        for raw in self._timed(read_samples(self.source, self.label, index)):
            self._connection.poll()
            stats.samples_in += 1
            index, end = raw.index + 1, raw.end
            if not raw.problem:
                self._compare(raw.index, partial(self.reproducibility.compare, processor, raw))
            self.greet()
            try:
                pieces, count = self._process(processor, raw)
                nothing += not count
            except SampleFailed as error:
                self._sample_failed(raw, error)
                pieces, count = [], 0
            stats.samples_out += count
            stats.samples_skipped += not count
            output.write(pieces)
            whole = not processor.makes_keys
            output.end_sample(wire.Checkpoint(index, end, whole, gap=stats.samples_gaps > 0))
            del raw, pieces  # or they would live until the next sample is read
        stats.samples_random += seeds.drew
        if job.sample == 0 and nothing and nothing == stats.samples_in:
            log.warning(
                "%s: the function returned nothing for any of %d samples of %s; was `return sample` forgotten?",
                self.job.request_id,
                nothing,
                self.label,
            )
        self.source.finish()
        self.greet()
        output.write([end_of_archive(job.output + output.total)])

    def _compare(self, index: int, is_same: Callable[[], bool]) -> None:
        """Run the sample twice where it is its turn, and say if it does not come out the same."""
        if self.reproducibility.is_due(index) and index not in self.job.poison and not is_same():
            self.stats.samples_unstable += 1
            log.warning("%s: sample %d of %s gave other bytes the second time", self.job.request_id, index, self.label)

    def _process(self, processor: SampleProcessor, raw: RawSample) -> tuple[list[Piece], int]:
        if raw.index in self.job.poison:
            hint = "the sample killed its worker; see the transform's log"
            raise SampleFailed(self.job.poison[raw.index], hint, passing=True)
        if raw.problem:
            raise SampleFailed(raw.problem, raw.hint, code="input_invalid")
        return processor.process(raw)

    def _sample_failed(self, raw: RawSample, error: SampleFailed) -> None:
        """Apply the transform's error policy."""
        self.exhausted |= error.exhausted
        self.stats.samples_gaps += error.passing or error.exhausted
        message = _placed(f'{error.message} (sample {raw.index}, "{raw.key}", of {self.label})', error)
        manifest = self.package.manifest
        if manifest.on_error == "fail":
            hint = _advised(error, f'{_logs_of(manifest)}, and on_error="skip" leaves such samples out')
            raise JobFailed(wire.Failure(error.code, message, hint, raw.index, raw.key, error.traceback)) from None
        if self.package.manifest.on_error == "warn":
            log.warning("%s: left out: %s\n%s", self.job.request_id, message, error.traceback)
        else:
            log.info("%s: left out: %s", self.job.request_id, message)

    def _timed(self, samples: Iterator[RawSample]) -> Iterator[RawSample]:
        """Count the time that reading takes."""
        while True:
            start = clock.perf_counter()
            raw = next(samples, None)
            self.stats.fetch_seconds += clock.perf_counter() - start
            if raw is None:
                return
            yield raw
            del raw

    def _run_bytes(self) -> None:
        """The whole object through the function. It can't be left out of its own response: every failure is final."""
        start = clock.perf_counter()
        try:
            data = self.source.read_all(MAX_SAMPLE)
        except ValueError as error:
            raise JobFailed(wire.Failure("input_invalid", f"{self.label}: {error}", "use a sample transform")) from None
        self.stats.fetch_seconds += clock.perf_counter() - start
        self.stats.samples_in = 1
        self.reproducibility.begin_job(self.job)
        if len(data) <= MAX_COMPARED:
            self._compare(0, partial(self.reproducibility.compare_runs, partial(self._call_bytes, data)))
        self.greet()
        try:
            for chunk in self._call_bytes(data):
                self._connection.poll()
                self._output.write([chunk])
        except SampleFailed as error:
            message = _placed(f"{error.message} (in {self.label})", error)
            hint = _advised(error, _logs_of(self.package.manifest))
            failure = wire.Failure(error.code, message, hint, 0, self.job.key, error.traceback)
            raise JobFailed(failure) from None
        self.stats.samples_out = 1

    def _call_bytes(self, data: bytes) -> Iterator[memoryview]:
        """The function's result, which is bytes or an iterator of bytes; each step has the time limit."""
        seeds = Seeds(self.job)
        seeds.apply(0)
        result = self._step(lambda: self.function(data, self.job.args))
        if isinstance(result, (bytes, bytearray, memoryview)):
            self._finish_bytes(seeds)
            yield memoryview(_plain(result))
            return
        if not isinstance(result, Iterator):
            raise SampleFailed(f"the function returned a {type_name(result)}", "return bytes, or yield them")
        end = object()
        while (chunk := self._step(lambda: next(result, end))) is not end:
            if not isinstance(chunk, (bytes, bytearray, memoryview)):
                raise SampleFailed(f"the function yielded a {type_name(chunk)}", "yield bytes")
            yield memoryview(_plain(chunk))
        self._finish_bytes(seeds)

    def _finish_bytes(self, seeds: Seeds) -> None:
        seeds.finish()
        self.stats.samples_random = int(seeds.drew)

    def _step(self, call: Callable[[], Any]) -> Any:
        if 0 in self.job.poison:
            raise SampleFailed(self.job.poison[0], "the object killed its worker; see the transform's log")
        start = clock.perf_counter()
        with self._clock.sample(0, self.job.key):
            result = call()
        self.stats.function_seconds += clock.perf_counter() - start
        return result


def _placed(message: str, error: SampleFailed) -> str:
    return f"{message}, at {error.place}" if error.place else message


def _advised(error: SampleFailed, advice: str) -> str:
    """The hint, and for an error of user code what helps with any of those."""
    if not error.place:
        return error.hint
    return f"{error.hint}; {advice}" if error.hint else advice


def _logs_of(manifest: wire.Manifest) -> str:
    return f"`shardgate etl logs {manifest.name}` has the traceback"


def _plain(data: bytes | bytearray | memoryview) -> bytes | memoryview:
    try:
        return plain(data)
    except ValueError as error:
        raise SampleFailed(
            f"the function's bytes can't be read: {describe(error)}", "return bytes, or yield them"
        ) from None


def open_input(job: wire.Job, fd: int | None, transform_id: str) -> Input:
    """The job's raw shard, which is to be read to where the job continues. Owns the descriptor.

    A shard is opened at its first byte wherever that is cheap, so that keys are known that came before (`tar_reader`).

    Raises:
        JobFailed: The job names no input, or is for another transform.
    """
    if job.transform_id != transform_id:
        problem = f"the job is for {job.transform_id}, but this runtime runs {transform_id}"
    elif fd is not None:
        return FileInput(fd, job.input_offset, job.input_size, 0)
    elif job.url:
        start = job.input if job.input > MAX_READ_AGAIN else 0
        headers = wire.stage_headers(job)
        return HttpInput(job.url, job.token, job.match, start, once=job.once, stages=job.stages, headers=headers)
    else:
        problem = "the job came without an input: neither a file descriptor nor a URL"
    if fd is not None:
        os.close(fd)
    raise JobFailed(wire.Failure("internal", problem))
