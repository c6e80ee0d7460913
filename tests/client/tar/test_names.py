"""Which members are samples, against webdataset's own expression."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate.tar.names import is_meta, split_name

WEBDATASET = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
"""`webdataset.tariterators.base_plus_ext`."""


@given(st.text(st.sampled_from("ab._/ é"), max_size=20))
def test_names_are_split_as_webdataset_splits_them_but_for_hidden_files_in_folders(name):
    match = WEBDATASET.match(name)
    expected = (match[1], match[2]) if match else None
    if expected and expected[0].endswith("/"):  # "d/._a.jpg" is no field "_a.jpg" of a sample "d/"
        expected = None
    assert split_name(name) == expected


@pytest.mark.parametrize("name", ["a", "a/b", "._a.jpg", "d/._a.jpg", "d/.DS_Store", ".a", "a.b/c", "", "/", "a.b/"])
def test_what_has_no_key_or_no_field_is_no_sample(name):
    assert split_name(name) is None


@pytest.mark.parametrize("name", ["__meta__", "__info__/a.json", "__MACOSX/a.jpg", "d/__MACOSX/a.jpg", "__a__/b/c.d"])
def test_members_about_the_archive_are_told_from_samples(name):
    assert is_meta(name)


@pytest.mark.parametrize("name", ["__a.jpg", "a__/b.jpg", "d/__meta__.jpg", "___/a.jpg", "__MACOSX.jpg"])
def test_samples_are_not_taken_for_members_about_the_archive(name):
    assert not is_meta(name)


@pytest.mark.parametrize("name", ["/" * 4_000_000, "a/" * 2_000_000, "." * 4_000_000, "_" * 4_000_000 + "/"])
def test_no_name_takes_more_than_linear_time(name):
    """What is quadratic would take hours."""
    split_name(name)
    is_meta(name)
