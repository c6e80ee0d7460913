"""A worker: one process, one job at a time.

All workers share the listening socket and accept only while idle, so a waiting gateway gets the first worker that is
free, and nobody has to keep a queue. A worker never trusts what is left of the job before: every connection starts with
an empty ring, and memory that the gateway may still read is given up rather than written again.
"""

from __future__ import annotations

import errno
import faulthandler
import logging
import os
import select
import signal
import sys
import traceback
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from shardgate import wire
from shardgate_runtime.connection import Connection, JobRefused
from shardgate_runtime.descriptors import Descriptors
from shardgate_runtime.failures import JobFailed, ReaderLeft, StartupError, describe
from shardgate_runtime.job import JobRun, open_input
from shardgate_runtime.limits import die_with_parent, limit_memory, prefer_to_be_killed
from shardgate_runtime.orphans import Undertaker, adopt_orphans
from shardgate_runtime.outlet import DataOutlet, Outlet, Ring, RingOutlet
from shardgate_runtime.reproducibility import Reproducibility
from shardgate_runtime.scoreboard import Scoreboard, Slot, State
from shardgate_runtime.warmup import warm_up

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from shardgate_runtime.package import Package, TransformFunction

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Between two looks of an idle worker for dead children."""
SETUP_FAILED = 70
"""Exit code of a worker whose user code could not be set up; the reason stands in its note."""
CLOSED_FILES = "setup() closed file descriptors that belong to the worker"


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker is given when it is forked. Sizes are in bytes; `memory_bytes` 0 is no limit."""

    number: int
    name: str
    listener: socket.socket
    package: Package
    scoreboard: Scoreboard
    memory_bytes: int
    ring_bytes: int


class Worker:
    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._slot: Slot = options.scoreboard.slots[options.number]
        self._ring: Ring | None = None
        self._idle = False
        self._undertaker = Undertaker()
        self._stopping = False
        self._environment = options.package.environment
        self._reproducibility = Reproducibility()

    def run(self) -> int:
        """Work until told to stop; the process's exit code."""
        faulthandler.enable()
        signal.signal(signal.SIGTERM, self._stop)
        prefer_to_be_killed()
        try:
            function = self._set_up()
        except StartupError as error:
            self._slot.write_note(error.message)
            return SETUP_FAILED
        if self._options.memory_bytes:
            limit_memory(self._options.memory_bytes)
        while not self._stopping and (connection := self._accept()) is not None:
            self._serve_one(connection, function)
        return 0

    def _set_up(self) -> TransformFunction:
        files = Descriptors(self._options.listener.fileno())
        function = self._options.package.instantiate()
        if not files.are_intact():
            raise StartupError(CLOSED_FILES)
        warm_up(self._options.package.manifest.decoder)
        return function

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        self._stopping = True
        if self._idle:
            sys.exit(0)

    def _accept(self) -> Connection | None:
        """The next gateway, or None where the parent has shut the socket down, which it does when it stops."""
        self._slot.set_state(State.IDLE)
        self._idle = True
        listener = self._options.listener
        try:
            while self._undertaker.look() and not select.select([listener], [], [], LOOK_SECONDS)[0]:
                pass
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None
        finally:
            self._idle = False
        return Connection(sock)

    def _serve_one(self, connection: Connection, function: TransformFunction) -> None:
        try:
            job, fd = connection.receive_job()
            self._slot.begin_request(job.request_id)
            self._run_job(connection, job, fd, function)
        except JobRefused as error:
            log.warning("refused a job: %s", error)
            connection.refuse(wire.Failure("internal", str(error), "run gateway and workers of one version"))
        except ReaderLeft as error:
            log.info("stopped early: %s", error)
        finally:
            connection.close()

    def _run_job(self, connection: Connection, job: wire.Job, fd: int | None, function: TransformFunction) -> None:
        outlet = self._outlet(connection, job)
        death = self._options.scoreboard.take_death(job.request_id, self._slot)
        greet = cache(lambda: self._say_hello(connection, death, outlet))
        try:
            if job.probe:
                greet()
                connection.send(wire.FrameType.END, wire.End(0).pack())
                return
            # Before anything is sent: whoever asked may have left, and the descriptor would stay open.
            with closing(open_input(job, fd, self._options.package.id)) as source:
                if death or job.careful or self._reproducibility.compared:
                    greet()  # otherwise only after the first comparison
                run = JobRun(
                    job, self._options.package, function, self._slot, outlet, source, greet, self._reproducibility
                )
                run.run()
                self._stopping |= run.exhausted
        except ReaderLeft:
            raise
        except JobFailed as error:
            greet()
            connection.send(wire.FrameType.FAIL, error.failure.pack())
        except Exception as error:
            log.exception("%s: an error in the runtime", job.request_id)
            trace = traceback.format_exc()
            failure = wire.Failure("internal", describe(error), "this is a bug in shardgate", traceback=trace)
            greet()
            connection.send(wire.FrameType.FAIL, failure.pack())
        finally:
            self._part(connection, outlet)

    def _outlet(self, connection: Connection, job: wire.Job) -> Outlet:
        if not (job.ring and connection.local and self._options.ring_bytes):
            return DataOutlet(connection)
        if self._ring is None:
            self._ring = Ring(self._options.ring_bytes)
        return RingOutlet(connection, self._ring)

    def _say_hello(self, connection: Connection, death: wire.Death | None, outlet: Outlet) -> None:
        is_sample = self._options.package.manifest.kind == "sample"
        hello = wire.Hello(
            worker=self._options.name,
            ring_size=outlet.ring.size if isinstance(outlet, RingOutlet) else 0,
            content_type="application/x-tar" if is_sample else "application/octet-stream",
            death=death,
            environment=self._environment,
            reproducible=self._reproducibility.holds,
        )
        fds = (outlet.ring.fd,) if isinstance(outlet, RingOutlet) else ()
        connection.send(wire.FrameType.HELLO, hello.pack(), fds=fds)

    def _part(self, connection: Connection, outlet: Outlet) -> None:
        """End the conversation, and give up memory that the gateway has not finished with."""
        connection.linger()
        if isinstance(outlet, RingOutlet) and connection.acked != outlet.written:
            outlet.ring.close()
            self._ring = None


def work(options: WorkerOptions, parent: int) -> int:
    """The life of a worker process, from fork to exit code."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    die_with_parent(parent, signal.SIGKILL)
    adopt_orphans()
    options.scoreboard.slots[options.number].set_state(State.STARTING, os.getpid())
    return Worker(options).run()
