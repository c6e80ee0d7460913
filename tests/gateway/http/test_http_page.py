"""`docs/http.md` says which routes and problems there are; these tests keep it true."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from routes import every_route

from shardgate.wire.paths import OBJECTS
from shardgate_gateway.http.problems import STATUS

PAGE = (Path(__file__).parents[3] / "docs" / "http.md").read_text()


def test_the_page_has_every_route_with_its_methods() -> None:
    said = {
        re.sub(r"\{\w+\}", "x", path): set(methods.split())
        for path, methods in re.findall(r"^\| `(/[^`]+)` \| ([A-Z ]+) \|", PAGE, re.MULTILINE)
    }
    real = {}
    for route in every_route():
        path = (
            route.pattern.pattern.removesuffix("/?")
            .replace("([^/]+)", "x")
            .replace("([0-9a-f]{64})", "x")
            .replace(".*", "x/x")
        )
        implied = {"HEAD"} if route.methods.get("HEAD") is route.methods.get("GET") else set()
        real[path] = set(route.methods) - implied
    assert OBJECTS + "x/x" in real
    assert said == real


def test_the_page_has_every_problem_under_its_status() -> None:
    said = {
        int(status): re.findall(r"`(\w+)`", codes)
        for status, codes in re.findall(r"^\| (\d{3}) \| (.+) \|$", PAGE, re.MULTILINE)
    }
    real = defaultdict(list)
    for kind, status in STATUS.items():
        real[status].append(kind.code)
    assert said == {status: sorted(codes) for status, codes in real.items()}
