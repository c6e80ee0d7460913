"""Which objects are hot, by a clock of our own."""

from __future__ import annotations

import pytest

from shardgate_gateway.cluster import heat as module
from shardgate_gateway.cluster.heat import REMEMBERED_SECONDS, WINDOW_SECONDS, Heat


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_copies_grow_with_the_requests_up_to_a_limit(clock):
    heat = Heat(10, 3, clock)
    assert [heat.count("a") for _ in range(9)] == [1] * 9
    assert [heat.count("a") for _ in range(10)] == [2] * 10
    assert {heat.count("a") for _ in range(50)} == {3}
    assert heat.count("b") == 1, "another object is as cold as it was"


def test_an_object_cools_down_as_the_window_slides_over_its_requests(clock):
    heat = Heat(10, 8, clock)
    for _ in range(40):
        heat.count("a")
    clock.now += WINDOW_SECONDS
    hot = heat.count("a")
    clock.now += WINDOW_SECONDS / 2
    warm = heat.count("a")
    clock.now += 3 * WINDOW_SECONDS
    assert hot > warm > heat.count("a") == 1


def test_nothing_is_hot_where_copies_are_switched_off(clock):
    heat = Heat(0, 8, clock)
    assert {heat.count("a") for _ in range(1000)} == {1}


def test_what_the_owner_said_holds_for_a_while(clock):
    heat = Heat(10, 8, clock)
    assert heat.copies("a") == 1
    heat.heard("a", 3)
    assert heat.copies("a") == 3
    clock.now += REMEMBERED_SECONDS
    assert heat.copies("a") == 1


def test_both_books_stay_bounded(clock, monkeypatch):
    monkeypatch.setattr(module, "MAX_OBJECTS", 100)
    heat = Heat(1, 8, clock)
    for index in range(1000):
        heat.count(f"{index}")
        heat.heard(f"{index}", 2)
    assert len(heat._now) == len(heat._heard) == 100
    assert heat.copies("999") == 2, "the last that was heard of is remembered"
    assert heat.count("999") == 1, "what does not fit is not noticed as hot"
