"""A gateway with a feature of somebody else's, one without any, and what a laptop never loads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession, web
from etl import eventually
from routes import every_route

from shardgate_gateway.app import FEATURES, build
from shardgate_gateway.auth.scopes import USE
from shardgate_gateway.feature import Mount
from shardgate_gateway.http.core_routes import core_routes
from shardgate_gateway.http.route import route
from shardgate_gateway.http.router import Router
from shardgate_gateway.http.server import Server
from shardgate_gateway.jobs.periodic import Periodic
from shardgate_gateway.objects.events import Written
from shardgate_gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from shardgate_gateway.feature import Feature
    from shardgate_gateway.http.call import Call
    from shardgate_gateway.kernel import Kernel


class Toy:
    """Counts what is written to objects, and shows the count."""

    name = "toy"

    def __init__(self) -> None:
        self.is_open = False
        self.runs = 0

    @asynccontextmanager
    async def open(self, kernel: Kernel) -> AsyncIterator[Mount]:
        written: list[str] = []

        async def listen(event: Any) -> None:
            if isinstance(event, Written):
                written.append(event.key)

        async def show(_call: Call, name: str) -> web.Response:
            return web.json_response({"asked": name, "written": written})

        kernel.objects.listen(listen)
        self.is_open = True

        async def work() -> None:
            self.runs += 1

        yield Mount(
            routes=[route("toy", "/v1/toy/([^/]+)", needs=USE, GET=show)], jobs=[Periodic("count runs", 0.001, work)]
        )
        self.is_open = False


@asynccontextmanager
async def served(tmp_path: Path, features: Sequence[Feature]) -> AsyncIterator[tuple[str, ClientSession]]:
    (tmp_path / "b").mkdir()
    settings = Settings.model_validate(
        {
            "cache": {"dir": tmp_path / "cache"},
            "state": {"dir": tmp_path / "state"},
            "buckets": {"file://b": {"where": str(tmp_path / "b")}},
        }
    )
    async with build(settings, endpoint="http://127.0.0.1:1", features=features) as gateway:
        server = Server(gateway.kernel, Router(gateway.kernel, gateway.routes))
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        async with ClientSession() as session:
            yield f"http://127.0.0.1:{port}", session
        listening.close()
        server.pre_shutdown()
        await server.shutdown(0.1)


async def test_a_feature_brings_routes_and_jobs_and_hears_of_writes(tmp_path: Path) -> None:
    toy = Toy()
    async with served(tmp_path, [*FEATURES, toy]) as (url, session):
        assert toy.is_open
        await session.put(f"{url}/v1/objects/b/a", data=b"data")
        async with session.get(f"{url}/v1/toy/x%2Fy") as answer:
            assert await answer.json() == {"asked": "x/y", "written": ["a"]}
        async with session.post(f"{url}/v1/toy/x") as answer:
            assert (await answer.json())["code"] == "method_not_allowed"
        async with session.get(f"{url}/v1/transforms") as answer:
            assert await answer.json() == []
        await eventually(lambda: toy.runs > 2)
    assert not toy.is_open
    runs = toy.runs
    await asyncio.sleep(0.01)
    assert toy.runs == runs


async def test_a_gateway_without_features_still_serves_objects(tmp_path: Path) -> None:
    async with served(tmp_path, []) as (url, session):
        await session.put(f"{url}/v1/objects/b/a", data=b"data")
        async with session.get(f"{url}/v1/objects/b/a") as answer:
            assert await answer.read() == b"data"
        for path in ("/v1/transforms", "/v1/cache", "/v1/toy/x"):
            async with session.get(url + path) as answer:
                assert (answer.status, (await answer.json())["code"]) == (404, "not_found")


def test_no_feature_takes_a_path_of_the_core_or_of_another_feature() -> None:
    patterns = [each.pattern.pattern for each in every_route()]
    assert len(set(patterns)) == len(patterns)
    nothing: Any = None
    core = [each.pattern for each in core_routes(nothing)]
    for pattern in patterns[len(core) :]:
        path = pattern.removesuffix("/?").replace("([^/]+)", "x").replace("([0-9a-f]{64})", "0" * 64)
        assert not [each for each in core if each.fullmatch(path)]


@pytest.mark.parametrize("package", ["shardgate_gateway.etl.kubernetes", "shardgate_gateway.kube", "kubernetes"])
def test_a_laptop_loads_nothing_of_kubernetes(package: str) -> None:
    program = f"import sys, shardgate_gateway.app; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
