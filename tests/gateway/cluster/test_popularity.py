"""Which objects are hot, by a clock of our own."""

from __future__ import annotations

import pytest

from shardgate_gateway.cluster import popularity as module
from shardgate_gateway.cluster.popularity import REMEMBERED_SECONDS, WINDOW_SECONDS, Popularity


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_copies_grow_with_the_requests_up_to_a_limit(clock):
    popularity = Popularity(10, 3, clock)
    assert [popularity.count("a") for _ in range(9)] == [1] * 9
    assert [popularity.count("a") for _ in range(10)] == [2] * 10
    assert {popularity.count("a") for _ in range(50)} == {3}
    assert popularity.count("b") == 1, "another object is as cold as it was"


def test_an_object_cools_down_as_the_window_slides_over_its_requests(clock):
    popularity = Popularity(10, 8, clock)
    for _ in range(40):
        popularity.count("a")
    clock.now += WINDOW_SECONDS
    hot = popularity.count("a")
    clock.now += WINDOW_SECONDS / 2
    warm = popularity.count("a")
    clock.now += 3 * WINDOW_SECONDS
    assert hot > warm > popularity.count("a") == 1


def test_nothing_is_hot_where_copies_are_switched_off(clock):
    popularity = Popularity(0, 8, clock)
    assert {popularity.count("a") for _ in range(1000)} == {1}


def test_what_the_owner_said_holds_for_a_while(clock):
    popularity = Popularity(10, 8, clock)
    assert popularity.copies("a") == 1
    popularity.heard("a", 3)
    assert popularity.copies("a") == 3
    clock.now += REMEMBERED_SECONDS
    assert popularity.copies("a") == 1


def test_both_books_stay_bounded(clock, monkeypatch):
    monkeypatch.setattr(module, "MAX_OBJECTS", 100)
    popularity = Popularity(1, 8, clock)
    for index in range(1000):
        popularity.count(f"{index}")
        popularity.heard(f"{index}", 2)
    assert len(popularity._now) == len(popularity._heard) == 100
    assert popularity.copies("999") == 2, "the last that was heard of is remembered"
    assert popularity.count("999") == 1, "what does not fit is not noticed as hot"
