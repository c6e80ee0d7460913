"""Patterns match as a shell's do, and every text is a pattern or a clear error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate import InvalidName, globs


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("a-*.tar", ["a-.tar", "a-0.tar"], ["a-0/b.tar", "xa-0.tar", "a-0.tar2"]),
        ("**.tar", [".tar", "a/b/c.tar"], ["a.tgz"]),
        ("a/**/c", ["a/b/c", "a/b/b/c"], ["a/c"]),
        ("s-?.tar", ["s-0.tar"], ["s-/.tar", "s-00.tar"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "/x"]),
        ("[!a-c]x", ["dx", "-x"], ["ax", "/x"]),
        ("[]!]x", ["]x", "!x"], ["ax"]),
        ("[!]x*", ["[!]xy"], ["!xy"]),
        ("[*", ["[ab"], ["ab"]),
        (r"\[x\]\**", ["[x]*y"], ["x*y", "[x]y"]),
        ("ü?+.(*", ["üb+.(c"], ["üb+x(c"]),
    ],
)
def test_a_pattern_matches_as_a_shells_does(pattern: str, matches: list[str], others: list[str]) -> None:
    prefix, regex = globs.parse(pattern)
    assert [name for name in [*matches, *others] if regex.fullmatch(name)] == matches
    assert all(name.startswith(prefix) for name in matches)


@given(st.text(alphabet=st.sampled_from("ab/*?[]!^-\\{}&~|.\n"), max_size=12))
def test_any_text_is_a_pattern_or_an_error(text: str) -> None:
    try:
        prefix, regex = globs.parse(text)
    except InvalidName:
        return
    assert regex is not None or prefix.replace("\\", "") == text.replace("\\", "")


@given(st.text(max_size=20))
def test_escaped_text_stands_for_itself(text: str) -> None:
    assert globs.parse("".join(f"\\{character}" for character in text)) == (text, None)
