"""Which gateways an object belongs to: rendezvous hashing.

Every gateway computes a score for each pair of member and object; the object belongs to the member with the highest
score, and to the next ones in order when that is away. So gateways that know the same members agree without talking,
each member gets an equal share, and when one leaves only its own objects move, spread evenly over all others. A ring
with virtual nodes would need hundreds of points per member to be as even.
"""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest

if TYPE_CHECKING:
    from collections.abc import Collection


def rank(members: Collection[str], thing: str, count: int) -> list[str]:
    """The first `count` members for a thing, whose first is its owner.

    Args:
        members: Names, in any order.
        thing: What is placed: the entry name of an object.
        count: How many are wanted.
    """
    scored = [(-xxh3_64_intdigest(f"{member}\0{thing}".encode()), member) for member in members]
    return [member for _, member in nsmallest(count, scored)]
