"""The process that loads the package, forks the workers and watches them.

It runs user code only while loading, and then does nothing but wait for signals, a few times a second, and tell whoever
asks how it is. What it guards against: a worker that dies (replaced; its death is recorded for the next attempt at the
same request), one that never comes back from a sample or a shard (killed, `watchdog.py`), processes that a dead worker
left behind (killed, `orphans.py`), user code that dies while it is set up (reported as `failed` at first, tried again
with growing pauses later), and outliving its use (idle exit) or its gateway.

Signals are blocked and taken by `sigtimedwait`, so no handler ever runs in the middle of something.

When it is to stop, running jobs have some time to end, and the listening socket is shut down at once: who connects now
is refused and looks for another runtime, instead of waiting in a queue that nobody serves any more.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from os import _exit  # nobody can replace it here: a child must never return into the parent's code
from typing import TYPE_CHECKING

from shardgate.wire import Death
from shardgate_runtime.clock import clock
from shardgate_runtime.failures import StartupError
from shardgate_runtime.listener import host_of, open_listener
from shardgate_runtime.orphans import children, kill_orphans
from shardgate_runtime.package import Package, load_package
from shardgate_runtime.samples import FILES_CLOSED
from shardgate_runtime.scoreboard import Scoreboard, State
from shardgate_runtime.secret_digest import secrets_of
from shardgate_runtime.status_port import StatusPort, View
from shardgate_runtime.warmup import load_torch, warm_up
from shardgate_runtime.watchdog import STOPPED, Watchdog
from shardgate_runtime.worker import SETUP_FAILED, WorkerOptions, work

if TYPE_CHECKING:
    from shardgate_runtime.options import Options
    from shardgate_runtime.rundir import RunDir

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
BACKOFF_SECONDS = 0.5
"""Before a worker that died in setup, or soon after it, is forked again; doubles each time."""
MAX_BACKOFF_SECONDS = 2.0
"""Readers may wait for that worker, and somebody else may have killed those before it."""
MAX_QUICK_DEATHS = 3
"""Of one place's workers in a row, after which a runtime that was never ready gives up."""
QUICK_SECONDS = 10.0
"""A worker that waited for so long before it died died of something else than its setup."""
MAX_SETUP_FAILURES = 5
"""In a row, with no worker ready in between, after which the runtime gives up."""
CERTAIN = frozenset((signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT))
"""Deaths that the sample caused itself and would cause again."""
WATCHED = frozenset((signal.SIGCHLD, signal.SIGIO, signal.SIGTERM, signal.SIGINT))


@dataclass
class Child:
    """A place for a worker. pid 0: none at the moment, the next one not before `not_before`."""

    number: int
    pid: int = 0
    not_before: float = 0.0
    quick_deaths: int = 0
    """In a row, of workers that had nothing to do yet: a thread that setup() started may end its process."""
    verdict: str = ""
    """Why it was killed, if the parent did it."""


class Parent:
    def __init__(self, options: Options, run_dir: RunDir) -> None:
        self._options = options
        self._run_dir = run_dir
        self._scoreboard = Scoreboard(options.workers, run_dir.scoreboard)
        self._children = [Child(number) for number in range(options.workers)]
        self._ready = False
        self._deaths = 0
        self._started = clock.monotonic()
        self._setup_failures = 0
        self._deadline = 0.0
        """Time at which the remaining workers are killed; 0 while nobody wants to stop."""
        self._package: Package
        self._listener: socket.socket
        self._status_port: StatusPort | None = None
        self._address = ""
        self._watchdogs: list[Watchdog] = []
        self._loaded: frozenset[int] = frozenset()
        """Processes that user code started while it was loaded, which serve all workers."""
        self._has_orphans = False

    def run(self) -> None:
        """Work until told to stop, or idle for long enough.

        Raises:
            StartupError: The package can't be run.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        self._load()
        try:
            while not (self._deadline and not any(child.pid for child in self._children)):
                self._fork_missing()
                self._await_signal()
                self._reap()
                self._notice_ready()
                self._kill_overdue()
                self._stop_if_idle()
        finally:
            self._kill_all()
            self._close_ports()

    def _load(self) -> None:
        secrets = secrets_of()  # before code of the user may change its environment
        package = load_package(self._options.package, self._options.transform_id)
        self._package = replace(package, environment=package.environment | secrets)
        load_torch(self._package.manifest.requirements)
        try:
            warm_up(self._package.manifest.decoder)
        except ValueError as error:
            raise StartupError(
                f"decoder {self._package.manifest.decoder!r}: {error}", "see webdataset's imagespecs"
            ) from error
        self._listener, self._address = open_listener(self._options.listen)
        if self._options.status_port is not None:
            self._status_port = StatusPort(host_of(self._address), self._options.status_port)
        timeout = self._package.manifest.sample_timeout or self._options.stall_seconds
        self._watchdogs = [Watchdog(slot, timeout) for slot in self._scoreboard.slots]
        self._loaded = frozenset(children())
        # What is loaded by now stays shared with the workers: their garbage collections shall not touch its pages.
        gc.collect()
        gc.freeze()

    def _fork_missing(self) -> None:
        now = clock.monotonic()
        for child in self._children:
            if not child.pid and not self._deadline and now >= child.not_before:
                self._fork(child)

    def _fork(self, child: Child) -> None:
        parent = os.getpid()
        self._scoreboard.slots[child.number].set_state(State.STARTING, 0)
        _flush()
        child.pid = os.fork()
        if child.pid:
            return
        code = 1
        try:
            os.close(self._run_dir.lock_fd)
            if self._status_port is not None:
                self._status_port.close()
            code = work(self._worker_options(child.number), parent)
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 1
        except BaseException:  # noqa: BLE001 - a forked child must never return into the parent's code
            traceback.print_exc()
        finally:
            _flush()
            _exit(code)

    def _worker_options(self, number: int) -> WorkerOptions:
        return WorkerOptions(
            number=number,
            name=f"{os.uname().nodename}/{number}",
            listener=self._listener,
            package=self._package,
            scoreboard=self._scoreboard,
            memory_bytes=self._options.memory_bytes,
            ring_bytes=self._options.ring_bytes,
        )

    def _await_signal(self) -> None:
        timeout = self._package.manifest.sample_timeout
        info = signal.sigtimedwait(WATCHED, min(TICK_SECONDS, timeout) if timeout else TICK_SECONDS)
        if info is not None and info.si_signo in {signal.SIGTERM, signal.SIGINT}:
            self._stop()
        self._has_orphans |= info is not None and info.si_signo == signal.SIGCHLD
        if self._status_port is not None:
            self._status_port.answer(self._view())

    def _view(self) -> View:
        return View(
            transform_id=self._options.transform_id,
            slots=self._scoreboard.slots,
            draining=bool(self._deadline),
            deaths=self._deaths,
            started=self._started,
        )

    def _stop(self) -> None:
        if self._deadline:
            return
        self._deadline = clock.monotonic() + self._options.drain_seconds
        self._listener.shutdown(socket.SHUT_RDWR)
        for child in self._children:
            if child.pid:
                os.kill(child.pid, signal.SIGTERM)

    def _reap(self) -> None:
        for child in self._children:
            if not child.pid:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._bury(child, status)
        if self._has_orphans:
            self._has_orphans = not kill_orphans({child.pid for child in self._children} | self._loaded)

    def _bury(self, child: Child, status: int) -> None:
        """Record what the dead worker was doing, and decide when it is replaced."""
        slot = self._scoreboard.slots[child.number]
        _, state, since = slot.state()
        reason, certain = describe_death(status)
        if child.verdict:
            reason, certain = child.verdict, child.verdict != STOPPED
        if state is State.BUSY:
            sample, _, key = slot.sample()
            retired = sample is None and status == 0
            if not retired:
                log.error("worker %d died at sample %s %r of %s: %s", child.number, sample, key, slot.request(), reason)
                self._deaths += 1
                self._scoreboard.record_death(slot.request(), Death(sample, key, reason, certain))
        child.pid = 0
        child.verdict = ""
        slot.end_sample()
        slot.set_state(State.EMPTY, 0)
        if state is State.STARTING:
            told = os.waitstatus_to_exitcode(status) == SETUP_FAILED
            self._setup_failed(child, slot.note() if told else f"a worker died in setup: {reason}")
        else:
            self._setup_failures = 0  # it had been set up, even if it died before that was noticed
            self._pause_if_quick(child, state is State.IDLE and clock.monotonic() - since < QUICK_SECONDS, reason)

    def _pause_if_quick(self, child: Child, is_quick: bool, reason: str) -> None:
        """Fork no workers without end that die as soon as they are ready; the first death may be bad luck."""
        child.quick_deaths = child.quick_deaths + 1 if is_quick else 0
        if not is_quick or self._deadline:
            return
        message = f"worker {child.number} died before it had anything to do: {reason}"
        if not self._ready and child.quick_deaths >= MAX_QUICK_DEATHS:
            raise StartupError(message, "what setup() starts ends its process; the worker's log may say more")
        log.error("%s", message)
        if child.quick_deaths > 1:
            pause = min(BACKOFF_SECONDS * 2 ** (child.quick_deaths - 2), MAX_BACKOFF_SECONDS)
            child.not_before = clock.monotonic() + pause

    def _setup_failed(self, child: Child, message: str) -> None:
        self._setup_failures += 1
        if not self._ready or self._setup_failures >= MAX_SETUP_FAILURES:
            raise StartupError(message, "setup() or the class itself fails; the worker's log may say more")
        log.error("worker %d could not be set up: %s", child.number, message)
        child.not_before = clock.monotonic() + BACKOFF_SECONDS * 2 ** (self._setup_failures - 1)

    def _notice_ready(self) -> None:
        if any(slot.state()[1] in {State.IDLE, State.BUSY} for slot in self._scoreboard.slots):
            self._setup_failures = 0
            if not self._ready:
                self._ready = True
                port = self._status_port.port if self._status_port else None
                self._run_dir.write_status("ready", listen=self._address, status_port=port)

    def _kill_overdue(self) -> None:
        for child, watchdog in zip(self._children, self._watchdogs, strict=True):
            if child.pid and not child.verdict:
                child.verdict = watchdog.kill_if_overdue(child.pid)
        if self._deadline and clock.monotonic() > self._deadline:
            self._kill_all()

    def _stop_if_idle(self) -> None:
        limit = self._options.idle_limit
        if not limit or self._deadline:
            return
        states = [slot.state() for slot in self._scoreboard.slots]
        idle = all(state is State.IDLE for _, state, _ in states)
        newest = max(since for _, _, since in states)
        connection_waits = select.select([self._listener], [], [], 0)[0]
        if idle and clock.monotonic() - newest > limit and not connection_waits:
            log.info("idle for %g s", limit)
            self._stop()

    def _kill_all(self) -> None:
        for child in self._children:
            if child.pid:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                child.pid = 0

    def _close_ports(self) -> None:
        self._listener.close()
        if self._status_port is not None:
            self._status_port.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):  # user code may have closed it, or put something else in its place
            stream.flush()


def describe_death(status: int) -> tuple[str, bool]:
    """A wait status in words, and whether the same sample would surely cause it again."""
    if os.WIFEXITED(status):
        if os.WEXITSTATUS(status) == FILES_CLOSED:
            return "its code closed file descriptors that belong to the worker", True
        return f"exit code {os.WEXITSTATUS(status)}", True
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name if number in {*signal.Signals} else f"signal {number}"
    guess = " (out of memory?)" if number == signal.SIGKILL else ""
    return f"killed by {name}{guess}", number in CERTAIN
