"""Rendezvous placement: even, agreed without talking, and moving no more than it has to."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shardgate_gateway.cache.source import entry_name
from shardgate_gateway.cluster.placement import rank

NAMES = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=12, unique=True)
GATEWAYS = [f"shardgate-{index}" for index in range(1000)]
OBJECTS = [entry_name("object", "gcp", "imagenet", f"train-{index:06}.tar") for index in range(20_000)]


@given(NAMES, st.text(), st.randoms())
def test_all_who_know_the_same_members_agree_whatever_their_order(members, thing, dice):
    shuffled = members.copy()
    dice.shuffle(shuffled)
    assert rank(members, thing, 5) == rank(shuffled, thing, 5)


@given(NAMES, st.text())
def test_every_member_is_ranked_once_and_a_short_ranking_is_the_beginning_of_the_long_one(members, thing):
    whole = rank(members, thing, len(members))
    assert sorted(whole) == sorted(members)
    assert rank(members, thing, 2) == whole[:2]


@given(NAMES.filter(lambda names: len(names) > 1), st.lists(st.text(), max_size=20), st.data())
def test_removing_a_member_moves_only_its_objects_and_each_to_its_next_in_rank(members, things, data):
    gone = data.draw(st.sampled_from(members))
    left = [member for member in members if member != gone]
    for thing in things:
        assert rank(left, thing, len(left)) == [
            member for member in rank(members, thing, len(members)) if member != gone
        ]


def test_a_thousand_gateways_own_about_the_same_and_one_that_leaves_moves_its_share():
    """The deviation of a random placement is all there may be: five times it is out of reach by chance."""
    count, objects = 50, OBJECTS
    few = GATEWAYS[:count]
    owners = {thing: rank(few, thing, 1)[0] for thing in objects}
    shares = Counter(owners.values())
    fair = len(objects) / count
    assert len(shares) == count
    assert max(abs(share - fair) for share in shares.values()) <= 5 * fair**0.5
    gone = few[7]
    left = [name for name in few if name != gone]
    moved = sum(rank(left, thing, 1)[0] != owner for thing, owner in owners.items())
    print(f"{count} gateways: {min(shares.values())} to {max(shares.values())} of {fair:.0f} objects; {moved} moved")
    assert moved == shares[gone]


def test_what_moves_among_a_thousand_gateways_is_a_thousandth():
    """Every member's share within 5 deviations of fair, and what leaving moves over many leavers within 1.1 of 1/N."""
    objects = OBJECTS[:4000]
    owners = Counter(rank(GATEWAYS, thing, 1)[0] for thing in objects)
    fair = len(objects) / len(GATEWAYS)
    leaving = set(GATEWAYS[::10])  # a tenth of all, so that chance has little to say
    left = [name for name in GATEWAYS if name not in leaving]
    moved = sum(rank(GATEWAYS, thing, 1)[0] != rank(left, thing, 1)[0] for thing in objects)
    print(
        f"1000 gateways: up to {max(owners.values())} of {fair:.0f} objects; {moved / len(objects):.4f} moved for 0.1"
    )
    assert max(owners.values()) <= fair + 7 * fair**0.5
    assert moved <= 1.1 * len(objects) * len(leaving) / len(GATEWAYS)
