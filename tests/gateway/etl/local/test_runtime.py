"""Runtimes as real processes: shared, restarted, stopped, and honest about why they can't start."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from etl import Etl, children, etl_in, eventually, package_of, pid_exists
from shards import shard

from shardgate import wire
from shardgate.capture import capture
from shardgate_gateway.errors import Conflict, TransformStartError
from shardgate_gateway.etl.local import runtime as runtime_module
from shardgate_gateway.etl.local import stopped as stopped_module
from shardgate_gateway.etl.local.logfile import LogFile
from shardgate_gateway.etl.local.process import RuntimeProcess
from shardgate_gateway.etl.options import TransformOptions

if TYPE_CHECKING:
    from collections.abc import Iterator


def unchanged(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


async def test_two_gateways_share_one_runtime(etl: Etl, tmp_path: Path) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(unchanged, name="unchanged")
    async with etl_in(tmp_path) as other:
        mine, theirs = await asyncio.gather(etl.read(record, "a.tar"), other.read(record, "a.tar"))
        assert mine == theirs
        assert etl.runtime_pid(record) == other.runtime_pid(record)
        assert len([pid for pid in children(os.getpid()) if is_runtime(pid)]) == 1
        assert (await other.runner.status(record.id)).state == "ready"


def is_runtime(pid: int) -> bool:
    return b"shardgate_runtime" in Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_runtime_is_started_again_by_whoever_needs_it_when_it_is_killed(etl: Etl, tmp_path: Path) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(unchanged, name="unchanged")
    async with etl_in(tmp_path) as other:
        whole = await etl.read(record, "a.tar")
        first = etl.runtime_pid(record)
        workers = etl.worker_pids(record)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: not any(map(pid_exists, workers)))  # until then they would still take jobs
        assert await other.read(record, "a.tar") == whole
        assert other.runtime_pid(record) != first
        assert await etl.read(record, "a.tar") == whole
        assert etl.runtime_pid(record) == other.runtime_pid(record)


async def test_a_runtime_that_is_stopped_does_not_keep_its_readers_waiting(
    etl: Etl, monkeypatch: pytest.MonkeyPatch
) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(unchanged, name="unchanged")
    whole = await etl.read(record, "a.tar")
    stopped = [etl.runtime_pid(record), *etl.worker_pids(record)]
    monkeypatch.setattr(stopped_module, "LOOK_SECONDS", 0.2)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(60):
            assert await etl.read(record, "a.tar") == whole
    finally:
        for pid in filter(pid_exists, stopped):
            os.kill(pid, signal.SIGCONT)
    assert etl.runtime_pid(record) not in stopped


GATEWAY = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from etl import etl_in

async def main():
    async with etl_in(Path(sys.argv[1])) as etl:
        record = await etl.registry.resolve(sys.argv[3])
        await etl.runner.ensure(record)
        print(etl.runtime_pid(record), flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture
def other_gateway(tmp_path: Path) -> Iterator[Any]:
    """Another process that owns the runtime of a transform; gives the process and the runtime's pid."""
    started: list[subprocess.Popen[str]] = []

    async def start(transform_id: str) -> tuple[subprocess.Popen[str], int]:
        support = str(Path(__file__).parents[3] / "support")
        command = [sys.executable, "-c", GATEWAY, str(tmp_path), support, transform_id]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
        started.append(process)
        assert process.stdout is not None
        return process, int(await asyncio.to_thread(process.stdout.readline))

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def test_a_shard_goes_on_when_the_gateway_that_owns_the_runtime_is_killed(etl: Etl, other_gateway: Any) -> None:
    etl.put("a.tar", shard(300, size=30_000))
    record = await etl.register(unchanged, name="unchanged")
    process, runtime = await other_gateway(record.id)
    got = bytearray()
    async with etl.request(record, "a.tar") as request:
        stream = etl.relay.stream(request)
        async for chunk in stream:
            if not got:
                assert etl.runtime_pid(record) == runtime
                process.kill()
            got += chunk
    assert got == await etl.read(record, "a.tar")
    await eventually(lambda: not pid_exists(runtime))
    assert etl.runtime_pid(record) != runtime


async def test_a_stopped_runtime_whose_gateway_is_dead_keeps_nobody_from_starting_another(
    etl: Etl, other_gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(unchanged, name="unchanged")
    process, runtime = await other_gateway(record.id)
    stopped = [runtime, *children(runtime)]
    status = etl.runner._runtime(record.id).folder.path / "status.json"
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    status.write_text(status.read_text().replace('"ready"', '"starting"'))
    process.kill()
    monkeypatch.setattr(stopped_module, "LOOK_SECONDS", 0.2)
    async with asyncio.timeout(60):
        assert await etl.read(record, "a.tar")
    assert etl.runtime_pid(record) != runtime


async def test_a_runtime_that_another_gateway_owns_can_be_stopped(etl: Etl, other_gateway: Any) -> None:
    record = await etl.register(unchanged, name="unchanged")
    _, runtime = await other_gateway(record.id)
    await etl.runner.stop(record)
    assert not pid_exists(runtime)
    assert (await etl.runner.status(record.id)).state == "stopped"


async def test_stop_ends_all_processes_until_somebody_starts_them_again(etl: Etl) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(unchanged, name="unchanged")
    whole = await etl.read(record, "a.tar")
    pids = [etl.runtime_pid(record), *etl.worker_pids(record)]
    assert len(pids) == 3
    await etl.runner.stop(record)
    assert not any(map(pid_exists, pids))
    with pytest.raises(Conflict, match="was stopped"):
        await etl.read(record, "a.tar")
    await etl.runner.start(record)
    assert await etl.read(record, "a.tar") == whole


async def test_a_removed_transform_leaves_nothing_behind(etl: Etl) -> None:
    etl.put("a.tar", shard(3))
    record = await etl.register(unchanged, name="unchanged")
    await etl.read(record, "a.tar")
    pid = etl.runtime_pid(record)
    await etl.runner.remove(record.id)
    assert not pid_exists(pid)
    assert not list((etl.folder / "state" / "run").iterdir())
    assert not list((etl.folder / "state" / "logs").iterdir())
    await etl.runner.remove(record.id)  # nothing to do is fine


async def test_a_stopped_gateway_leaves_no_process(tmp_path: Path) -> None:
    async with etl_in(tmp_path) as etl:
        etl.put("a.tar", shard(3))
        record = await etl.register(unchanged, name="unchanged")
        await etl.read(record, "a.tar")
        pids = [etl.runtime_pid(record), *etl.worker_pids(record)]
    assert not any(map(pid_exists, pids))


async def test_a_process_whose_end_nobody_would_hear_of_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_pid: int) -> int:
        raise OSError(errno.EMFILE, "no descriptor is free")

    monkeypatch.setattr(os, "pidfd_open", exhausted)
    before = set(children(os.getpid()))
    with pytest.raises(OSError, match="no descriptor"):
        RuntimeProcess(["sleep", "1000"], tmp_path, LogFile(tmp_path / "a.log"))
    await eventually(lambda: not any(map(is_sleeping, set(children(os.getpid())) - before)))


def is_sleeping(pid: int) -> bool:
    return b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_an_idle_runtime_ends_by_itself_and_comes_back(tmp_path: Path) -> None:
    async with etl_in(tmp_path, idle_seconds=1.5) as etl:
        etl.put("a.tar", shard(3))
        record = await etl.register(unchanged, name="unchanged")
        whole = await etl.read(record, "a.tar")
        first = etl.runtime_pid(record)
        await eventually(lambda: not pid_exists(first))
        assert (await etl.runner.status(record.id)).state == "idle"
        assert await etl.read(record, "a.tar") == whole
        assert etl.runtime_pid(record) != first


async def test_the_state_goes_from_pending_to_ready(etl: Etl) -> None:
    record = await etl.register(unchanged, name="unchanged")
    assert (await etl.runner.status(record.id)).state == "pending"
    await etl.runner.ensure(record)
    status = await etl.runner.status(record.id)
    assert (status.state, status.workers) == ("ready", 2)
    assert status.since is not None


async def test_a_long_state_folder_does_not_break_the_socket(tmp_path: Path) -> None:
    async with etl_in(tmp_path / ("long" * 30)) as etl:
        etl.put("a.tar", shard(3))
        record = await etl.register(unchanged, name="unchanged")
        assert await etl.read(record, "a.tar")


async def test_workers_do_not_see_the_gateways_secrets(etl: Etl, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_KEY", "SHARDGATE_SERVE__TOKEN")
    for name in (*secrets, "HF_TOKEN", "ANYTHING_ELSE"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")

    def environment(_data: bytes) -> bytes:
        import os

        return "\n".join(sorted(os.environ)).encode()

    etl.put("x", b"-")
    record = await etl.register(environment, name="environment", kind="bytes")
    names = (await etl.read(record, "x")).decode().split()
    assert "PATH" in names
    assert "LC_ALL" in names
    assert not {*secrets, "HF_TOKEN", "ANYTHING_ELSE"} & set(names)


def with_manifest(function: Any, **changes: Any) -> bytes:
    manifest, package = capture(function, name="broken", decoder="")
    _, pickled = wire.unpack_package(package)
    fields = {field: getattr(manifest, field) for field in manifest.__slots__} | changes
    return wire.pack_package(wire.Manifest(**fields), pickled)


def missing_module() -> Any:
    """A function from a module that the worker does not have."""
    import types

    module = types.ModuleType("only_here")
    exec("def function(sample): return sample", module.__dict__)
    sys.modules["only_here"] = module
    return module.function  # type: ignore[attr-defined]


async def test_a_module_that_is_missing_is_named(etl: Etl) -> None:
    import cloudpickle

    package = package_of(cloudpickle.dumps(missing_module()), name="broken", decoder="")
    record = await etl.registrar.register(package, TransformOptions())
    with pytest.raises(TransformStartError, match="only_here"):
        await etl.runner.ensure(record)
    status = await etl.runner.status(record.id)
    assert status.state == "failed"
    assert "only_here" in status.message


async def test_a_requirement_that_is_missing_is_named(etl: Etl) -> None:
    package = with_manifest(unchanged, requirements=("no-such-distribution==1.0",))
    record = await etl.registrar.register(package, TransformOptions())
    with pytest.raises(TransformStartError) as raised:
        await etl.runner.ensure(record)
    assert "no-such-distribution" in raised.value.message + raised.value.hint


async def test_a_package_that_kills_the_runtime_while_it_loads_says_so(etl: Etl) -> None:
    package = package_of(b"cposix\n_exit\n(I7\ntR.", name="broken", decoder="")  # a pickle that calls os._exit(7)
    record = await etl.registrar.register(package, TransformOptions())
    with pytest.raises(TransformStartError, match="exit status 7"):
        await etl.runner.ensure(record)
    assert (await etl.runner.status(record.id)).state == "failed"


async def test_a_start_that_takes_too_long_is_ended_and_the_setting_named(tmp_path: Path) -> None:
    class Slow:
        def __init__(self) -> None:
            import time

            time.sleep(1000)

        def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
            return sample

    async with etl_in(tmp_path, start_timeout=3) as etl:
        record = await etl.register(Slow, name="slow")
        with pytest.raises(TransformStartError, match="not ready after 3 s") as raised:
            await etl.runner.ensure(record)
        assert "etl.start_timeout" in raised.value.hint
        assert not [pid for pid in children(os.getpid()) if is_runtime(pid)]


async def test_a_broken_transform_can_be_tried_again_after_a_while(
    etl: Etl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_module, "FAILURE_SECONDS", 0.0)
    weights = tmp_path / "weights"

    class Model:
        def __init__(self, path: str = str(weights)) -> None:
            self.weights = Path(path).read_bytes()

        def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
            return {"__key__": sample["__key__"], "bin": self.weights}

    etl.put("a.tar", shard(1))
    record = await etl.register(Model, name="model")
    with pytest.raises(TransformStartError, match="weights"):
        await etl.read(record, "a.tar")
    weights.write_bytes(b"trained")
    assert b"trained" in await etl.read(record, "a.tar")


async def test_an_interpreter_that_is_not_there_is_an_error_at_registration(tmp_path: Path) -> None:
    async with etl_in(tmp_path, python=str(tmp_path / "nopython")) as etl:
        with pytest.raises(Exception, match="does not run") as raised:
            await etl.registrar.register(package_of(), TransformOptions())
        assert raised.type.__name__ == "PackageInvalid"


async def test_logs_hold_what_user_code_prints(etl: Etl) -> None:
    def prints(sample: dict[str, Any]) -> dict[str, Any]:
        print("I see", sample["__key__"])
        return sample

    etl.put("a.tar", shard(3))
    record = await etl.register(prints, name="prints")
    await etl.read(record, "a.tar")
    assert "I see 000002" in await etl.runner.logs(record.id, tail=2)
    assert "I see 000000" not in await etl.runner.logs(record.id, tail=1)
