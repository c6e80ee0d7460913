"""Tokens and scopes: who is let through, and who is not, whatever the names look like."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from typing import TYPE_CHECKING

import jwt
import pytest
from gateway_process import eventually
from hypothesis import given
from hypothesis import strategies as st

from shardgate.providers import SYNONYMS
from shardgate_gateway.auth import tokens as tokens_module
from shardgate_gateway.auth.grant import Grant
from shardgate_gateway.auth.scopes import ADMIN, Scope, exact
from shardgate_gateway.auth.tokens import Tokens
from shardgate_gateway.errors import BadRequest, Forbidden, Unauthenticated
from shardgate_gateway.settings import AuthSettings

if TYPE_CHECKING:
    from pathlib import Path

KEY = "k" * 32
ALICE = "alice-0123456789"
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
FEW = st.text("ab*\\/", max_size=12)


def grant(*scopes: str) -> Grant:
    return Grant("alice", frozenset(scopes))


def users(path: Path, *scopes: str, token: str = ALICE) -> AuthSettings:
    path.write_text(json.dumps({"tokens": [{"name": "alice", "token": token, "scopes": scopes}]}))
    return AuthSettings(tokens_file=str(path), signing_key=KEY)


@pytest.fixture(autouse=True)
def looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "LOOK_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("scope", "resource", "allowed"),
    [
        ("read:gcp://imagenet/*", "gcp://imagenet/train/0.tar", True),
        ("read:gcp://imagenet/*", "gcp://imagenet2/0.tar", False),
        ("read:gcp://imagenet/*", "aws://imagenet/0.tar", False),
        ("read:gcp://imagenet/train-*.tar", "gcp://imagenet/train-0.tar", True),
        ("read:gcp://imagenet/train-*.tar", "gcp://imagenet/val-0.tar", False),
        ("read:gcp://imagenet/train-*.tar", "gcp://imagenet/train-0.tar.gz", False),
        ("read:gcp://imagenet/a.tar", "gcp://imagenet/a.tar", True),
        ("read:gcp://imagenet/a.tar", "gcp://imagenet/a-tar", False),
        ("read:gs://imagenet/*", "gcp://imagenet/a", True),
        ("read:*", "az://anything/at/all", True),
        ("read:*://shared/*", "aws://shared/a", True),
        ("read:*://shared/*", "aws://other/x://shared/a", False),
        ("read:gcp://team-*/*", "gcp://team-a/b/c", True),
        ("read:gcp://*/public/*", "gcp://a/public/b", True),
        ("read:gcp://*/public/*", "gcp://a/private/public/b", False),
        ("read:gcp://*b/*", "gcp://a/b/c", False),
        ("read:gcp://b/a*b*a", "gcp://b/aba", True),
        ("read:gcp://b/ab*ba", "gcp://b/aba", False),
        ("read:gcp://b/[abc]", "gcp://b/a", False),
        ("read:gcp://b/.*", "gcp://b/anything", False),
        (r"read:gcp://b/\*", "gcp://b/*", True),
        (r"read:gcp://b/\*", "gcp://b/a", False),
        ("write:gcp://imagenet/*", "gcp://imagenet/a", False),
    ],
)
def test_a_pattern_matches_literally_but_for_its_stars(scope: str, resource: str, allowed: bool) -> None:
    assert grant(scope).allows("read", resource) is allowed


@given(st.sampled_from([(name, other) for name, others in SYNONYMS.items() for other in others]), NAMES)
def test_a_provider_means_the_same_in_all_its_spellings(spelling: tuple[str, str], key: str) -> None:
    canonical, other = spelling
    assert grant(f"read:{other}://b/*").allows("read", f"{canonical}://b/{key}")


@given(NAMES, NAMES)
def test_an_exact_scope_opens_one_object_whatever_it_is_called(key: str, other: str) -> None:
    scope = f"read:{exact(f'gcp://b/{key}')}"
    assert grant(scope).allows("read", f"gcp://b/{key}")
    assert grant(scope).allows("read", f"gcp://b/{other}") is (key == other)


def slow_match(pattern: str, text: str) -> bool:
    """The definition, written down."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(slow_match(pattern[1:], text[at:]) for at in range(len(text) + 1))
    if pattern[0] == "\\":
        literal, rest = (pattern[1], pattern[2:]) if len(pattern) > 1 else ("\\", "")
    else:
        literal, rest = pattern[0], pattern[1:]
    return text[:1] == literal and slow_match(rest, text[1:])


@given(FEW.filter(bool), FEW)
def test_matching_is_what_the_definition_says(pattern: str, text: str) -> None:
    assert Scope.parse(f"package:{pattern}").matches(text) is slow_match(pattern, text)


@given(FEW.filter(bool), FEW, FEW)
def test_what_can_not_match_below_a_prefix_does_not_match_there(pattern: str, prefix: str, rest: str) -> None:
    scope = Scope.parse(f"package:{pattern}")
    assert scope.matches_below(prefix) or not scope.matches(prefix + rest)


def test_a_bucket_can_be_listed_where_something_in_it_may_be_read() -> None:
    alice = grant("read:gcp://imagenet/train/*", "read:aws://one/a.tar")
    assert alice.allows_below("read", "gcp://imagenet/")
    assert alice.allows_below("read", "gcp://imagenet/train/a")
    assert alice.allows_below("read", "aws://one/")
    assert not alice.allows_below("read", "gcp://imagenet/val")
    assert not alice.allows_below("read", "gcp://imagenet2/")
    assert not alice.allows_below("write", "gcp://imagenet/train/")


@pytest.mark.parametrize("scope", ["", "root", "read", "read:", "Admin", "admin ", "transforms:*", "read:nfs://b/*"])
def test_a_scope_that_does_not_exist_is_refused(scope: str) -> None:
    with pytest.raises(BadRequest, match="scope"):
        Scope.parse(scope)


@pytest.mark.parametrize(
    "scope", ["read:gcp://b", "read:gcp://b/", "read:gcp://b*", "write:b", "read:gcp:///", "read:**"]
)
def test_a_scope_that_can_match_no_object_is_refused(scope: str) -> None:
    with pytest.raises(BadRequest, match="matches no object") as caught:
        Scope.parse(scope)
    assert "gcp://imagenet/*" in caught.value.hint


def test_admins_may_do_everything_and_peers_may_read_and_transform() -> None:
    actions = [("read", "gcp://b/k"), ("transforms:use", ""), ("peer", "")]
    more = [("write", "gcp://b/k"), ("transforms:register", ""), ("package", "x"), ("environment", "x"), ("admin", "")]
    assert all(grant("admin").allows(*action) for action in actions + more)
    assert all(grant("peer").allows(*action) for action in actions)
    assert not any(grant("peer").allows(*action) for action in more)
    assert not any(grant().allows(*action) for action in actions + more)


def test_the_scope_of_one_package_opens_no_other() -> None:
    one = grant("package:a-1")
    one.require("package", "a-1")
    with pytest.raises(Forbidden, match="alice has no scope package:a-12"):
        one.require("package", "a-12")
    for action, resource in [("read", "gcp://b/k"), ("transforms:use", ""), ("environment", "a-1"), ("admin", "")]:
        assert not one.allows(action, resource)


@pytest.mark.parametrize(
    ("scope", "resource", "allowed"),
    [
        ("apply:a-1@gcp://b/k", "a-1@gcp://b/k", True),
        ("apply:a-1@gs://b/k", "a-1@gcp://b/k", True),
        ("apply:a-1@gcp://b/k@2", "a-1@gcp://b/k@2", True),
        ("apply:a-1,b-2@gcp://b/k", "a-1,b-2@gcp://b/k", True),
        ("apply:a-1,b-2@gcp://b/k", "a-1@gcp://b/k", False),
        ("apply:a-1@gcp://b/k", "a-1,b-2@gcp://b/k", False),
        ("apply:a-1@gcp://b/k", "a-12@gcp://b/k", False),
        ("apply:a-1@gcp://b/k", "a-1@gcp://b/k2", False),
        ("apply:a-1@gcp://b/k", "a-1@aws://b/k", False),
        ("apply:a-1@gcp://b/*", "a-1@gcp://c/b/k", False),
        ("apply:*@*", "a-1,b-2@gcp://b/k", True),
    ],
)
def test_a_scope_for_results_is_for_these_transforms_of_these_objects(scope: str, resource: str, allowed: bool) -> None:
    assert grant(scope).allows("apply", resource) is allowed


def test_a_scope_for_results_opens_nothing_else() -> None:
    one = grant("apply:a-1@gcp://b/k")
    assert one.knows("gcp://b")
    assert not one.knows("gcp://c")
    for action, resource in [("read", "gcp://b/k"), ("write", "gcp://b/k"), ("transforms:use", ""), ("package", "a-1")]:
        assert not one.allows(action, resource)
    assert not one.allows_below("read", "gcp://b/")


@pytest.mark.parametrize(
    "scope", ["apply", "apply:", "apply:a-1", "apply:a-1@", "apply:@gcp://b/k", "apply:a-1@gcp://b"]
)
def test_a_scope_for_results_that_can_match_none_is_refused(scope: str) -> None:
    with pytest.raises(BadRequest, match="scope"):
        Scope.parse(scope)


def test_without_any_token_everybody_may_do_everything() -> None:
    tokens = Tokens(AuthSettings(), "")
    assert tokens.check(None).allows(ADMIN)
    assert tokens.check("whatever").allows("write", "gcp://b/k")


def test_the_metrics_token_opens_nothing_that_has_a_scope() -> None:
    found = Tokens(AuthSettings(metrics_token="m" * 20), "serve").check("m" * 20)
    assert found == Grant("metrics", frozenset({"metrics"}))
    for action in ("admin", "peer", "transforms:use", "transforms:register"):
        assert not found.allows(action)
    for action in ("read", "write", "package", "environment"):
        assert not found.allows(action, "gcp://shards/a")


def test_a_derived_key_is_the_same_wherever_the_signing_key_is_and_of_one_purpose() -> None:
    one, two = (Tokens(AuthSettings(signing_key="k" * 64), "serve") for _ in range(2))
    assert one.derived("a") == two.derived("a") != one.derived("b")
    assert one.derived("a") != Tokens(AuthSettings(signing_key="l" * 64), "serve").derived("a")


def test_the_serve_token_is_the_admins() -> None:
    tokens = Tokens(AuthSettings(), "tok\u00e9n")
    assert tokens.check("tok\u00e9n") == Grant("admin", frozenset({"admin"}))
    for wrong in ("tok\u00e9", "token", "tok\u00e9n ", "\udcff", "a.b.c"):
        with pytest.raises(Unauthenticated, match="wrong"):
            tokens.check(wrong)
    with pytest.raises(Unauthenticated, match="no bearer token") as caught:
        tokens.check(None)
    assert "Authorization: Bearer" in caught.value.hint


def test_users_are_read_from_json_and_from_toml(tmp_path: Path) -> None:
    scopes = ["read:gcp://b/*", "transforms:use"]
    path = tmp_path / "tokens"
    settings = users(path, *scopes)
    assert Tokens(settings, "").check(ALICE) == grant(*scopes)
    path.write_text(f'[[tokens]]\nname = "alice"\ntoken = "{ALICE}"\nscopes = {json.dumps(scopes)}\n')
    assert Tokens(settings, "").check(ALICE) == grant(*scopes)


def test_a_changed_file_counts_at_once_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens"
    tokens = Tokens(users(path, "transforms:use"), "")
    assert tokens.check(ALICE).allows("transforms:use")
    users(path, "transforms:register")
    assert not tokens.check(ALICE).allows("transforms:use")
    for broken in ("{", '{"tokens": [{"name": "alice", "token": "secret-of-alice-0", "scopes": ["root"]}]}', "\udcff"):
        path.write_text(broken, errors="surrogateescape")
        assert tokens.check(ALICE).allows("transforms:register")
    path.unlink()
    assert tokens.check(ALICE).allows("transforms:register")
    assert len([record for record in caplog.records if "still holds" in record.message]) == 1
    assert "secret-of-alice" not in caplog.text
    users(path, "transforms:register", token="another-0123456789")
    with pytest.raises(Unauthenticated):
        tokens.check(ALICE)
    assert tokens.check("another-0123456789").subject == "alice"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "tokens: Field required"),
        ('{"tokens": [{"name": "a", "token": "short-token-1", "scopes": []}]}', r"tokens\.0\.token: .* 16 char"),
        ('{"tokens": [{"name": "a", "token": "0123456789abcdef", "scopes": ["red:*"]}]}', "no scope 'red:"),
        ('{"tokens": [{"name": "a", "token": "0123456789abcdef", "scopes": [], "user": 1}]}', "user: Extra"),
    ],
)
def test_a_file_that_can_not_be_used_stops_the_start_and_shows_no_token(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(BadRequest, match=complaint) as caught:
        Tokens(AuthSettings(tokens_file=str(tmp_path / "tokens")), "")
    assert "auth.tokens_file" in caught.value.message
    assert "short-token-1" not in caught.value.message


def test_a_signed_token_is_good_for_what_it_says_at_every_gateway_with_the_key(tmp_path: Path) -> None:
    here, there = Tokens(users(tmp_path / "a"), ""), Tokens(users(tmp_path / "b"), "")
    minted = here.mint("etl train-1", ["package:train-1"], seconds=60)
    assert there.check(minted) == Grant("etl train-1", frozenset({"package:train-1"}))
    other = Tokens(AuthSettings(signing_key="o" * 32), "serve")
    with pytest.raises(Unauthenticated, match="wrong"):
        other.check(minted)


def test_a_signed_token_expires(tmp_path: Path) -> None:
    tokens = Tokens(users(tmp_path / "a"), "")
    expired = tokens.mint("etl", ["transforms:use"], seconds=-tokens_module.LEEWAY_SECONDS - 1)
    with pytest.raises(Unauthenticated, match="expired"):
        tokens.check(expired)


def test_what_is_remembered_expires_too(tmp_path: Path) -> None:
    tokens = Tokens(users(tmp_path / "a"), "")
    minted = tokens.mint("etl", ["transforms:use"], seconds=2 - tokens_module.LEEWAY_SECONDS)

    def expired() -> bool:
        try:
            tokens.check(minted)
        except Unauthenticated as error:
            assert "expired" in error.message  # noqa: PT017
            return True
        return False

    eventually(expired)


@pytest.mark.parametrize(
    ("claims", "key", "algorithm"),
    [
        ({"iss": "shardgate", "sub": "eve", "scopes": ["admin"], "exp": 2**40}, "", "none"),
        ({"iss": "shardgate", "sub": "eve", "scopes": ["admin"], "exp": 2**40}, KEY, "HS512"),
        ({"iss": "shardgate", "sub": "eve", "scopes": ["admin"], "exp": 2**40}, "x" * 32, "HS256"),
        ({"iss": "another", "sub": "eve", "scopes": ["admin"], "exp": 2**40}, KEY, "HS256"),
        ({"iss": "shardgate", "sub": "eve", "scopes": ["admin"]}, KEY, "HS256"),
        ({"iss": "shardgate", "sub": "eve", "exp": 2**40}, KEY, "HS256"),
        ({"iss": "shardgate", "sub": 7, "scopes": ["admin"], "exp": 2**40}, KEY, "HS256"),
    ],
)
@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_no_other_algorithm_key_issuer_or_shape_is_taken(
    tmp_path: Path, claims: dict[str, object], key: str, algorithm: str
) -> None:
    header = jwt.encode({"sub": "x"} | claims if isinstance(claims["sub"], str) else {}, key or None, algorithm)
    forged = header
    if claims["sub"] == 7:
        forged = jwt.PyJWS().encode(json.dumps(claims).encode(), key, algorithm)
    with pytest.raises(Unauthenticated, match="wrong"):
        Tokens(users(tmp_path / "a"), "").check(forged)


@pytest.mark.parametrize(
    "odd",
    [
        *({"scopes": scopes} for scopes in (7, None, True, "admin", {"admin": 1}, 1.5)),
        *({"sub": sub} for sub in (7, None, "", ["eve"], {})),
        *({"exp": exp} for exp in ("1099511627776", None, True, [2**40], {}, math.inf, math.nan, 10**400)),
        *({"iat": iat} for iat in ("x", [1], {}, math.inf, 10**400)),
        *({"nbf": nbf} for nbf in ("x", [1], {}, math.inf)),
        *({"iss": iss} for iss in (7, None, ["shardgate"], {})),
        *({"aud": aud} for aud in (7, "x", ["x"], {})),
        {"jti": 7},
    ],
    ids=str,
)
def test_a_token_with_the_right_key_and_claims_of_other_types_is_no_token(
    tmp_path: Path, odd: dict[str, object]
) -> None:
    claims = {"iss": "shardgate", "sub": "eve", "scopes": ["admin"], "exp": 2**40} | odd
    odd_token = jwt.PyJWS().encode(json.dumps(claims).encode(), KEY, "HS256")
    with pytest.raises(Unauthenticated):
        Tokens(users(tmp_path / "a"), "").check(odd_token)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4))
def test_whatever_a_claim_is_the_token_is_taken_or_refused(value: object) -> None:
    tokens = Tokens(AuthSettings(signing_key=KEY), "serve")
    for name in ("iss", "sub", "scopes", "exp", "iat", "nbf", "aud", "jti"):
        claims = {"iss": "shardgate", "sub": "eve", "scopes": [], "exp": 2**40} | {name: value}
        with contextlib.suppress(Unauthenticated):
            tokens.check(jwt.PyJWS().encode(json.dumps(claims).encode(), KEY, "HS256"))


@pytest.mark.parametrize(
    "part", [b"[" * 100_000, b"7", b"null", b'{"alg": [], "typ": 1}', b'{"alg": "HS256", "crit": 7}']
)
def test_a_token_of_odd_json_is_no_token(tmp_path: Path, part: bytes) -> None:
    quoted = base64.urlsafe_b64encode(part).rstrip(b"=").decode()
    good = Tokens(users(tmp_path / "b"), "").mint("x", [], seconds=60).split(".")
    for odd in (f"{quoted}.{good[1]}.{good[2]}", f"{good[0]}.{quoted}.{good[2]}"):
        with pytest.raises(Unauthenticated):
            Tokens(users(tmp_path / "a"), "").check(odd)


def test_a_proof_is_of_one_name_at_one_address_for_one_challenge_under_one_key(tmp_path: Path) -> None:
    here, there = Tokens(users(tmp_path / "a"), ""), Tokens(users(tmp_path / "b"), "")
    proof = here.prove("a", "http://10.0.0.1:51080", "x")
    assert proof == there.prove("a", "http://10.0.0.1:51080", "x")
    others = [
        ("b", "http://10.0.0.1:51080", "x"),
        ("a", "http://10.0.0.2:51080", "x"),
        ("a", "http://10.0.0.1:51080", ""),
    ]
    assert proof not in {here.prove(*other) for other in others}
    assert proof != Tokens(AuthSettings(signing_key="o" * 32), "serve").prove("a", "http://10.0.0.1:51080", "x")
    assert Tokens(AuthSettings(), "").prove("a", "http://10.0.0.1:51080", "x") == ""


def test_a_note_is_taken_back_as_it_was_given_and_for_what_it_is_about(tmp_path: Path) -> None:
    here, there = Tokens(users(tmp_path / "a"), ""), Tokens(users(tmp_path / "b"), "")
    note = here.seal("17.5", "/a")
    assert there.unseal(note, "/a") == "17.5"
    for odd, about in (
        (note, "/b"),
        (f"0{note}", "/a"),
        (note[:-1], "/a"),
        ("", "/a"),
        ("0.", "/a"),
        ("\udcff.\udcff", "/a"),
    ):
        assert there.unseal(odd, about) is None


def test_scopes_of_a_newer_gateway_mean_nothing_and_break_nothing(tmp_path: Path) -> None:
    claims = {"iss": "shardgate", "sub": "new", "scopes": ["console:use", 7, "transforms:use"], "exp": 2**40}
    granted = Tokens(users(tmp_path / "a"), "").check(jwt.encode(claims, KEY, "HS256"))
    assert granted.scopes == {"transforms:use"}


def test_a_key_is_changed_without_a_moment_in_which_nothing_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("1" * 32 + "\n")
    tokens = Tokens(AuthSettings(signing_key_file=str(path)), "serve")
    old = tokens.mint("etl", ["transforms:use"], seconds=60)
    path.write_text("2" * 32 + "\n" + "1" * 32 + "\n")
    new = tokens.mint("etl", ["transforms:use"], seconds=60)
    assert tokens.check(old) == tokens.check(new)
    path.write_text("2" * 32 + "\n")
    assert tokens.check(new).subject == "etl"
    with pytest.raises(Unauthenticated):
        tokens.check(old)


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("short\n")
    with pytest.raises(BadRequest, match="32 bytes"):
        Tokens(AuthSettings(signing_key_file=str(tmp_path / "keys")), "serve")
    with pytest.raises(ValueError, match="32 bytes"):
        AuthSettings(signing_key="short")


def test_nothing_is_signed_with_a_scope_that_does_not_exist() -> None:
    with pytest.raises(BadRequest, match="no scope"):
        Tokens(AuthSettings(), "").mint("etl", ["everything"], seconds=60)


def test_without_a_token_one_may_do_what_is_listed_and_nothing_else() -> None:
    tokens = Tokens(AuthSettings(anonymous=("read:gcp://public/*",)), "operator-0123456789")

    nobody = tokens.check(None)

    assert nobody.allows("read", "gcp://public/a.tar")
    assert not nobody.allows("read", "gcp://private/a.tar")
    assert not nobody.allows(ADMIN)
    assert tokens.check("operator-0123456789").allows(ADMIN)


def test_a_wrong_token_is_not_taken_for_none() -> None:
    tokens = Tokens(AuthSettings(anonymous=("read:*",)), "operator-0123456789")

    with pytest.raises(Unauthenticated, match="wrong"):
        tokens.check("stolen")


def test_a_scope_for_everybody_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadRequest, match="no scope 'reed"):
        Tokens(AuthSettings(anonymous=("reed:*",)), "operator-0123456789")
