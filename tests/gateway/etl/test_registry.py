"""The registry with a real database and a real package store, and with processes that are killed in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from etl import Etl, etl_in, eventually, package_of
from sqlalchemy import delete

from shardgate import wire
from shardgate_gateway.errors import BadRequest, LocalStorageError, NotFound, PackageInvalid, UpstreamCorrupt
from shardgate_gateway.etl import packages as packages_module
from shardgate_gateway.etl import registry as registry_module
from shardgate_gateway.etl.options import TransformOptions
from shardgate_gateway.jobs.supervisor import JobSupervisor
from shardgate_gateway.state.tables import TransformRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

AUTO = TransformOptions()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
def database(request: pytest.FixtureRequest) -> str:
    """URL of a database; "" is SQLite in the state folder."""
    return str(request.getfixturevalue("postgres").create()) if request.param == "postgres" else ""


@pytest.fixture
async def etl(tmp_path: Path, database: str) -> AsyncIterator[Etl]:
    async with etl_in(tmp_path, database=database) as etl:
        yield etl


async def test_a_package_gets_the_id_of_its_content_and_comes_back_as_it_was(etl: Etl) -> None:
    package = package_of(b"\x00any bytes", name="train", decoder="rgb", requirements=("a==1",))
    record = await etl.registrar.register(package, AUTO)
    assert record.id == wire.transform_id("train", package)
    assert record.digest == hashlib.sha256(package).hexdigest()
    assert record.manifest == wire.unpack_package(package)[0]
    assert record.package_bytes == len(package)
    assert await etl.registry.package(record.id) == package
    assert await etl.registry.resolve("train") == await etl.registry.resolve(record.id) == record


async def test_nobody_waits_on_the_loop_while_a_package_is_read_and_checked(
    etl: Etl, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    check = etl.runner.check

    def looks(manifest: wire.Manifest, options: TransformOptions) -> None:
        threads.add(threading.get_ident())
        check(manifest, options)

    monkeypatch.setattr(etl.runner, "check", looks)
    await etl.registrar.register(package_of(), AUTO)
    assert threads
    assert threading.get_ident() not in threads


async def test_registering_twice_changes_nothing_but_the_options(etl: Etl) -> None:
    package = package_of()
    first = await etl.registrar.register(package, AUTO)
    second = await etl.registrar.register(package, TransformOptions(cache="never", workers=3))
    assert (second.id, second.created_at) == (first.id, first.created_at)
    assert second.options == TransformOptions(cache="never", workers=3)
    assert [record.id for record in await etl.registry.list()] == [first.id]
    assert len(list((etl.folder / "state" / "packages").rglob("*"))) == 2  # a folder and one object


async def test_new_code_under_an_old_name_is_a_new_transform_and_the_old_one_stays(etl: Etl) -> None:
    old = await etl.registrar.register(package_of(b"old"), AUTO)
    assert (await etl.registry.resolve("opaque")).id == old.id
    new = await etl.registrar.register(package_of(b"new"), AUTO)
    assert new.id != old.id
    assert (await etl.registry.resolve("opaque")).id == new.id
    assert (await etl.registry.resolve(old.id)).id == old.id
    await etl.registrar.register(package_of(b"old"), AUTO)
    assert (await etl.registry.resolve("opaque")).id == old.id


async def test_another_process_sees_a_moved_name_within_a_second(
    etl: Etl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "LOOKUP_SECONDS", 0.05)
    async with etl_in(tmp_path, database=etl.url) as other:
        await etl.registrar.register(package_of(b"old"), AUTO)
        await other.registry.resolve("opaque")
        new = await etl.registrar.register(package_of(b"new"), AUTO)
        await asyncio.sleep(0.06)
        assert (await other.registry.resolve("opaque")).id == new.id


async def test_a_deleted_transform_is_gone_with_its_name_and_package(etl: Etl) -> None:
    record = await etl.registrar.register(package_of(), AUTO)
    await etl.registry.delete(record.id)
    for what in (record.id, "opaque"):
        with pytest.raises(NotFound, match=what):
            await etl.registry.resolve(what)
    with pytest.raises(NotFound):
        await etl.registry.delete(record.id)
    assert not [path for path in (etl.folder / "state" / "packages").rglob("*") if path.is_file()]
    again = await etl.registrar.register(package_of(), AUTO)
    assert await etl.registry.package(again.id) == package_of()


async def test_many_processes_register_and_delete_the_same_transform_at_once(etl: Etl, tmp_path: Path) -> None:
    """A row always has its package, whatever the order."""

    async def churn(gateway: Etl) -> None:
        for _ in range(10):
            record = await gateway.registrar.register(package_of(), AUTO)
            try:
                assert await gateway.registry.package(record.id) == package_of()
                await gateway.registry.delete(record.id)
            except NotFound:
                continue  # somebody else was quicker

    async with etl_in(tmp_path, database=etl.url) as second, etl_in(tmp_path, database=etl.url) as third:
        await asyncio.gather(*(churn(gateway) for gateway in (etl, second, third)))
    record = await etl.registrar.register(package_of(), AUTO)
    assert await etl.registry.package(record.id) == package_of()


async def test_gateways_that_register_the_same_package_at_once_agree(etl: Etl, tmp_path: Path) -> None:
    async with etl_in(tmp_path, database=etl.url) as second, etl_in(tmp_path, database=etl.url) as third:
        for number in range(5):
            package = package_of(b"%d" % number)
            records = await asyncio.gather(
                *(
                    gateway.registrar.register(package, AUTO, created_by=name)
                    for name, gateway in {"alice": etl, "bob": second, "carol": third}.items()
                )
            )
            assert records[0] == records[1] == records[2]
    assert len(await etl.registry.list()) == 5
    assert len([path for path in (etl.folder / "state" / "packages").rglob("*") if path.is_file()]) == 5


async def test_orphans_are_removed_when_they_are_old_and_nothing_else_is(
    etl: Etl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await etl.registrar.register(package_of(), AUTO)
    folder = etl.folder / "state" / "packages"
    orphan = folder / "gone-0123456789abcdef" / "0123456789abcdef"
    orphan.parent.mkdir()
    orphan.write_bytes(b"of a gateway that died")
    assert await etl.packages.sweep() == 0  # it may be a registration that goes on right now
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
    async with etl_in(tmp_path, database=etl.url) as other:
        swept = await asyncio.gather(etl.packages.sweep(), other.packages.sweep())
    assert max(swept) == 1
    assert not orphan.exists()
    assert await etl.registry.package(record.id) == package_of()


async def test_a_gateway_sweeps_by_itself(etl: Etl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages_module, "SWEEP_SECONDS", 0.05)
    orphan = etl.folder / "state" / "packages" / "gone" / "x"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"")
    os.utime(orphan, (0, 0))
    async with JobSupervisor() as jobs:
        for job in etl.packages.jobs():
            jobs.start(job)
        await eventually(lambda: not orphan.exists())


async def test_a_known_transform_stays_known_while_the_database_is_away(
    etl: Etl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_module, "LOOKUP_SECONDS", 0.0)
    record = await etl.registrar.register(package_of(), AUTO)
    await etl.registry.resolve("opaque")

    async def away(function: object) -> object:
        raise LocalStorageError("the database failed")

    with monkeypatch.context() as patched:
        patched.setattr(etl.database, "read", away)
        assert await etl.registry.resolve("opaque") == record
        with pytest.raises(LocalStorageError):
            await etl.registry.resolve(record.id)  # never asked for by this name
    await etl.registry.delete(record.id)
    with pytest.raises(NotFound):
        await etl.registry.resolve("opaque")


async def test_who_registered_a_transform_first_is_remembered(etl: Etl) -> None:
    assert (await etl.registrar.register(package_of(), AUTO, created_by="alice")).created_by == "alice"
    assert (await etl.registrar.register(package_of(), AUTO, created_by="bob")).created_by == "alice"


async def test_what_is_found_out_with_an_old_record_does_not_undo_what_others_found_out(etl: Etl) -> None:
    record = await etl.registrar.register(package_of(), AUTO)
    old = await etl.registry.learn(record, environment={"python": "3.12.1"})
    await etl.registry.learn(old, environment={"python": "3.12.2"})
    now = await etl.registry.learn(old, random=True)
    assert (now.environment, now.is_random) == ({"python": "3.12.2"}, True)
    assert await etl.registry.find(record.id) == now


async def test_what_was_found_out_before_a_deletion_says_nothing_of_the_next_registration(etl: Etl) -> None:
    old = await etl.registrar.register(package_of(), AUTO)
    await etl.registry.delete(old.id)
    new = await etl.registrar.register(package_of(), AUTO)
    with pytest.raises(NotFound, match="registered again"):
        await etl.registry.learn(old, environment={"python": "3.12.1"}, unstable=True)
    assert await etl.registry.find(old.id) == new


async def test_a_package_that_rotted_in_the_store_is_not_handed_out(etl: Etl) -> None:
    record = await etl.registrar.register(package_of(), AUTO)
    (stored,) = (path for path in (etl.folder / "state" / "packages").rglob("*") if path.is_file())
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    with pytest.raises(UpstreamCorrupt, match=record.id):
        await etl.registry.package(record.id)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def raw_package(**changes: Any) -> bytes:
    manifest = {"name": "opaque", "python": "{}.{}".format(*sys.version_info[:2])} | changes
    return bytes(msgpack.packb({"format": 1, "manifest": manifest, "function": b"f"}))


@pytest.mark.parametrize(
    ("package", "complaint"),
    [
        (b"", "can't be read"),
        (b"hello", "not a transform package"),
        (msgpack.packb({"format": 2, "manifest": {}, "function": b""}), "format 2"),
        (msgpack.packb({"format": 1, "manifest": {}, "function": b"f"}), "name"),
        (msgpack.packb({"format": 1, "manifest": {"name": "n"}}), "not a transform package"),
        (raw_package(name="Upper"), "name can't be 'Upper'"),
        (raw_package(name="../../etc"), "name"),
        (raw_package(name="a\n"), "name"),
        (raw_package(name="a" * 49), "name"),
        (raw_package(name=7), "name"),
        (raw_package(kind="shell"), "kind"),
        (raw_package(kind=[]), "kind"),
        (raw_package(on_error="explode"), "on_error"),
        (raw_package(decoder=1), "decoder"),
        (raw_package(sample_timeout=-1), "sample_timeout"),
        (raw_package(sample_timeout="soon"), "sample_timeout"),
        (raw_package(python="three"), "python"),
        (raw_package(requirements=[1]), "requirements"),
        (raw_package(requirements=3), "not a transform package"),
        *((raw_package(sample_timeout=value), "sample_timeout") for value in (math.inf, math.nan, 1e300, 10**9, True)),
        (raw_package(source="x" * ((64 << 10) + 1)), "source can't be of length"),
        (raw_package(source="a\0b"), "NUL"),
        (raw_package(requirements=["a"] * 1001), "requirements can't be of length"),
        (raw_package(requirements=["a" * 1001]), "requirements"),
        (raw_package(requirements=["a" * 999] * 500), "more than"),
        (raw_package(entry="x" * 5000), "entry can't be of length"),
        (raw_package(decoder="x" * 5000), "decoder can't be of length"),
        (raw_package(python="3." + "1" * 5000), "python can't be"),
        (raw_package(kind="container", container={"command": ["a"], "env": {"A": "x" * 200_000}}), "more than"),
        (raw_package(kind="container", container={"command": ["a" * 200_000]}), "more than"),
        (raw_package(kind="container", container={"command": [b"a"]}), "command"),
        (raw_package(kind="container", container={"pod": {"spec": {"x": math.nan}}}), "spec.x can't be 'nan'"),
        (raw_package(kind="container", container={"pod": {"spec": {"x": b"b"}}}), "spec.x can't be"),
        (raw_package(kind="container", container={"pod": {"spec": {"x": "a\0"}}}), "NUL"),
        (raw_package(kind="container", container={"pod": {"spec": {"x": 1 << 63}}}), "spec.x can't be"),
        (raw_package(kind="container", container={"pod": nested(900)}), "nested deeper"),
        (raw_package(python="2.7"), "pickled by Python 2.7"),
        (msgpack.packb({"format": 1, "manifest": {"name": "n", "python": "3.11"}, "function": ""}), "no function"),
    ],
)
async def test_what_is_no_usable_package_is_refused_with_the_reason(etl: Etl, package: bytes, complaint: str) -> None:
    with pytest.raises(PackageInvalid, match=complaint):
        await etl.registrar.register(package, AUTO)
    assert await etl.registry.list() == []


async def test_a_list_has_pages_in_order_and_none_twice(etl: Etl) -> None:
    ids = [(await etl.registrar.register(package_of(bytes([index + 1])), AUTO)).id for index in range(7)]
    found: list[str] = []
    after = ""
    while True:
        records, after = await etl.registry.page(after, 3)
        assert len(records) <= 3
        found += [record.id for record in records]
        if not after:
            break
        await etl.registry.delete(records[-1].id)  # the next page begins behind it all the same
    assert found == ids[::-1]
    assert len(await etl.registry.list()) == 5
    for token in ("x", "~", "2024-01-01", "9999-99-99~a"):
        with pytest.raises(BadRequest) if token != "2024-01-01" else contextlib.nullcontext():
            await etl.registry.page(token)


async def test_a_registration_says_whether_it_is_new(etl: Etl) -> None:
    assert (await etl.registrar.register(package_of(), AUTO)).is_new
    assert not (await etl.registrar.register(package_of(), AUTO)).is_new


@pytest.mark.parametrize(
    "values",
    [
        {"memory_bytes": str(10**22)},
        {"workers": "1e300"},
        {"replicas": str(10**30)},
        {"env": '{"A": "\\u0000"}'},
        {"env": '{"A": "\\ud800"}'},
        {"env": '{"\\ud800": "a"}'},
        {"env": {"A": "x" * 100_000}},
        {"env": "[" * 5000},
        {"env": '{"A": NaN}'},
        {"node_selector": '{"a": "\\u0000"}'},
        {"resources": {"cpu": "9" * 5000}},
        {"resources": {"nvidia.com/gpu": 10**22}},
        {"tolerations": [{"tolerationSeconds": 10**22}]},
        {"tolerations": [{"tolerationSeconds": math.inf}]},
        {"tolerations": [{"key": "\0"}]},
        {"image": "a\0"},
        {"image": "\ud800"},
        {"secrets": ["a"] * 100_000},
    ],
)
async def test_options_that_can_not_be_are_refused_and_the_refusal_can_be_sent(values: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        TransformOptions.parse(values)
    assert len(refused.value.message.encode()) < 10_000


async def test_a_package_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with etl_in(tmp_path, package_bytes=1000) as etl:
        with pytest.raises(PackageInvalid, match="1000 are allowed"):
            await etl.registrar.register(package_of(b"x" * 1000), AUTO)


@pytest.mark.parametrize("values", [{"cache": "sometimes"}, {"workers": "-1"}, {"wokers": "1"}, {"workers": "many"}])
def test_options_that_make_no_sense_are_refused(values: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match=next(iter(values))):
        TransformOptions.parse(values)


def test_options_are_read_from_text() -> None:
    assert TransformOptions.parse({"cache": "always", "workers": "4"}) == TransformOptions(cache="always", workers=4)


async def test_stats_add_up_over_processes_and_restarts(etl: Etl, tmp_path: Path) -> None:
    record = await etl.registrar.register(package_of(), AUTO)
    async with etl_in(tmp_path, database=etl.url) as other:
        for gateway in (etl, other, etl):
            await gateway.registry.add_stats(record.id, wire.Stats(samples_in=5, fetch_seconds=0.5), "completed")
        await other.registry.add_stats(record.id, wire.Stats(samples_in=1), "abandoned")
    stats = await etl.registry.stats("opaque")
    assert (stats.work.samples_in, stats.work.fetch_seconds) == (16, 1.5)
    assert (stats.completed, stats.abandoned, stats.failed) == (3, 1, 0)


async def test_stats_of_a_transform_that_is_gone_do_not_matter(etl: Etl) -> None:
    record = await etl.registrar.register(package_of(), AUTO)
    await etl.registry.delete(record.id)
    await etl.registry.add_stats(record.id, wire.Stats(), "completed")
    with pytest.raises(NotFound):
        await etl.registry.stats(record.id)


class Mine:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


async def test_a_malicious_package_does_nothing_in_the_gateway(etl: Etl, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    function = pickle.dumps(Mine(str(trap)))
    record = await etl.registrar.register(package_of(function), AUTO)
    await etl.registry.resolve("opaque")
    await etl.registry.list()
    await etl.registry.package(record.id)
    assert not trap.exists()
    pickle.loads(function)
    assert trap.exists()  # it would have worked


def test_the_gateway_loads_nothing_that_unpickles() -> None:
    """Libraries may import `pickle` for their own use; nobody loads cloudpickle or what user code needs."""
    forbidden = {"cloudpickle", "numpy", "torch", "webdataset", "PIL", "shardgate.capture"}
    program = f"import sys, shardgate_gateway.app; print(*({forbidden!r} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []


REGISTERS = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from etl import Etl, package_of
from shardgate_gateway.jobs.supervisor import JobSupervisor
from shardgate_gateway.etl.options import TransformOptions
from shardgate_gateway.settings import EtlSettings

async def main():
    etl = Etl(Path(sys.argv[1]), EtlSettings(), sys.argv[3])
    for number in range(10**9):
        record = await etl.registrar.register(package_of(b"%d" % number * 1000, name="churn"), TransformOptions())
        print(record.id, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def support() -> str:
    return str(Path(__file__).parents[2] / "support")


@pytest.fixture
def registering(tmp_path: Path, support: str, database: str) -> Iterator[Any]:
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", REGISTERS, str(tmp_path), support, database]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


async def test_registrations_survive_a_gateway_that_is_killed_at_any_moment(
    tmp_path: Path, registering: Any, database: str
) -> None:
    promised: list[str] = []
    for turn in range(3):
        process = registering()
        promised.append(process.stdout.readline().strip())
        await asyncio.sleep(0.01 * turn)
        os.kill(process.pid, signal.SIGKILL)
        promised += process.communicate()[0].split()
    async with etl_in(tmp_path, database=database) as etl:
        records = {record.id: record for record in await etl.registry.list()}
        assert set(promised) <= set(records)
        for record in records.values():
            package = await etl.registry.package(record.id)
            assert wire.transform_id(record.name, package) == record.id
        assert (await etl.registry.resolve("churn")).id in records


async def test_installations_that_share_a_package_store_leave_each_other_s_packages_alone(
    etl: Etl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages_module, "ORPHAN_SECONDS", -1.0)
    async with etl_in(tmp_path / "other") as other:
        other.packages._store = etl.packages._store
        for packages in (etl.packages, other.packages):
            packages._is_own_store = False
        ours = await etl.registrar.register(package_of(b"both"), AUTO)
        theirs = await other.registrar.register(package_of(b"both"), AUTO)
        more = await other.registrar.register(package_of(b"theirs"), AUTO)
        assert await etl.packages.sweep() == await other.packages.sweep() == 0
        orphan = (await other.database.read(lambda session: session.get(TransformRow, more.id))).package_key
        await other.database.write(
            lambda session: session.execute(delete(TransformRow).where(TransformRow.id == more.id))
        )
        assert await etl.packages.sweep() == 0
        assert await other.packages.sweep() == 1
        assert not (etl.folder / "state" / orphan).exists()
        assert await etl.registry.package(ours.id) == await other.registry.package(theirs.id)
