"""Names of objects: within Kubernetes' limits, apart from each other, and readable."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from shardgate import wire
from shardgate_gateway.etl.kubernetes import names

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
transform_names = st.from_regex(wire.NAME_PATTERN, fullmatch=True)
digests = st.text("0123456789abcdef", min_size=16, max_size=16)
releases = st.from_regex(r"[a-z][a-z0-9-]{0,51}[a-z0-9]", fullmatch=True)


@given(transform_names, digests, releases)
def test_every_transform_of_every_release_has_valid_names(name: str, digest: str, release: str) -> None:
    transform, instance = f"{name}-{digest}", names.instance_name(release)
    made = names.object_name(instance, transform)
    assert DNS_1035.fullmatch(made)
    assert len(f"{made}-5d4f8c9b7c-x2x4z") <= names.MAX_LABEL
    assert made.endswith(digest)
    for value in names.labels(instance, transform).values():
        assert LABEL.fullmatch(value)
        assert len(value) <= names.MAX_LABEL


def test_a_name_that_fits_is_kept_whole() -> None:
    transform = "imagenet-train-0123456789abcdef"
    assert names.object_name("shardgate", transform) == "shardgate-imagenet-train-0123456789abcdef"
    assert names.transform_label(transform) == transform
    assert names.labels("shardgate", transform)[names.LABEL_NAME] == "imagenet-train"


def test_long_names_differ_by_their_digests_and_long_releases_by_theirs() -> None:
    long = "x" * wire.MAX_NAME
    one, other = f"{long}-{'0' * 16}", f"{long}-{'1' * 16}"
    assert names.object_name("shardgate", one) != names.object_name("shardgate", other)
    assert names.transform_label(one) != names.transform_label(other)
    assert names.instance_name("shardgate-of-team-a-in-europe") != names.instance_name("shardgate-of-team-b-in-europe")
