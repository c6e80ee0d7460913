"""Provider names: one table, its synonyms, and what is no provider."""

from __future__ import annotations

import pytest

from shardgate.providers import PROVIDERS, canonical, split_bucket


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("gs", "gcp"),
        ("gcp", "gcp"),
        ("s3", "aws"),
        ("azure", "az"),
        ("https", "http"),
        ("memory", "mem"),
        ("S3", "aws"),
    ],
)
def test_every_spelling_has_one_canonical_name(spelling, name):
    assert canonical(spelling) == name


def test_canonical_names_are_their_own():
    assert PROVIDERS == ("gcp", "aws", "az", "http", "file", "mem")
    assert [canonical(name) for name in PROVIDERS] == list(PROVIDERS)


def test_an_unknown_provider_is_answered_with_those_that_are():
    with pytest.raises(ValueError, match=r"'ftp'.*gcp, gs, aws, s3"):
        canonical("ftp")


def test_a_bucket_is_taken_apart():
    assert split_bucket("gs://imagenet") == ("gcp", "imagenet")
    assert split_bucket("s3://imagenet/") == ("aws", "imagenet")


@pytest.mark.parametrize("bucket", ["imagenet", "gs://", "gs:/imagenet", "gs://a/b", "://a", "ftp://a"])
def test_what_is_no_bucket_says_so(bucket):
    with pytest.raises(ValueError, match=r"PROVIDER://NAME|unknown provider"):
        split_bucket(bucket)
