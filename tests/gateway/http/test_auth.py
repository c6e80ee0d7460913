"""Who may do what, over HTTP: nobody reads what is not theirs, registers code, or opens another transform's package."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from etl import package_of
from gateway_process import GatewayProcess, running_gateway
from hypothesis import given
from hypothesis import strategies as st
from readers import Answer, curl, get_raw
from routes import every_route

from shardgate_gateway.auth.scopes import exact
from shardgate_gateway.auth.tokens import Tokens
from shardgate_gateway.settings import AuthSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "the key of all gateways, 32 bytes or more"
SECRET = b"what only bob may read"
OWN = b"what alice may read"
SCOPES = {
    "alice": ["read:gs://alice/*", "write:gcp://alice/up*", "read:aws://shared/public/*", "transforms:use"],
    "bob": ["read:*://bob/*", "transforms:use", "transforms:register"],
    "carol": ["read:gcp://alice/*"],
    "nobody": [],
    "root": ["admin"],
}


def token(name: str) -> str:
    return f"the-token-of-{name}"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("auth")
    for path, body in {
        "alice/own": OWN,
        "alice/up/old": OWN,
        "alice/odd *name": OWN,
        "bob/secret": SECRET,
        "bob/own": SECRET,
        "shared/public/a": OWN,
        "shared/private/b": SECRET,
        "shared/top": SECRET,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    users = [{"name": name, "token": token(name), "scopes": scopes} for name, scopes in SCOPES.items()]
    (folder / "tokens").write_text(json.dumps({"tokens": users}))
    (folder / "key").write_text(KEY + "\n")
    settings = {"auth.tokens_file": folder / "tokens", "auth.signing_key_file": folder / "key"}
    buckets = {"gcp://alice": folder / "alice", "gcp://bob": folder / "bob", "aws://shared": folder / "shared"}
    with running_gateway(folder / "gateway", buckets, workers=2, settings=settings) as running:
        yield running


def ask(gateway: GatewayProcess, who: str, path: str, *options: str) -> Answer:
    """`who` is a user, or a token that was signed."""
    bearer = token(who) if who in SCOPES else who
    return curl(gateway.endpoint + path, "-H", f"Authorization: Bearer {bearer}", *options)


def said(answer: Answer) -> dict[str, Any]:
    return dict(json.loads(answer.body))


def register(gateway: GatewayProcess, who: str, package: bytes) -> Answer:
    path = gateway.cache.parent / "package"
    path.write_bytes(package)
    return ask(gateway, who, "/v1/transforms", "--data-binary", f"@{path}")


def signed(*scopes: str, seconds: float = 60) -> str:
    return Tokens(AuthSettings(signing_key=KEY), "serve").mint("a part", scopes, seconds=seconds)


def test_a_bucket_that_is_not_theirs_is_refused_by_name_also_when_it_is_in_memory(gateway: GatewayProcess) -> None:
    for _ in range(4):  # two processes, and the second answer of each comes from memory
        assert ask(gateway, "bob", "/v1/objects/bob/secret?provider=gcp").body == SECRET
        refused = ask(gateway, "alice", "/v1/objects/bob/secret?provider=gcp")
        assert (refused.status, said(refused)["code"]) == (403, "forbidden")
        assert said(refused)["message"] == "the token of alice has no scope read:gcp://bob/secret"
        assert said(refused)["hint"]
        assert ask(gateway, "alice", "/v1/objects/alice/own").body == OWN
        assert ask(gateway, "bob", "/v1/objects/alice/own").status == 403


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_every_method_asks(gateway: GatewayProcess, method: str) -> None:
    options = ["-I"] if method == "HEAD" else ["-X", method]
    assert ask(gateway, "alice", "/v1/objects/bob/secret", *options).status == 403
    assert ask(gateway, "nobody", "/v1/objects/alice/own", *options).status == 403
    assert ask(gateway, "bob", "/v1/objects/bob/secret").body == SECRET


@pytest.mark.parametrize(
    "path",
    [
        "alice/../bob/secret",
        "alice/%2e%2e/bob/secret",
        "alice%2f..%2fbob/secret",
        "alice//../bob/secret",
        "bob/secret?provider=gs",
        "bob/secret?provider=GCP",
        "bob/secret?provider=aws",
        "bob/%73ecret",
        "%62ob/secret",
        "bob/secret?archpath=x",
        "gcp:%2f%2falice%2f../bob/secret",
        "bob/secret#alice/own",
        "*/secret",
    ],
)
def test_no_spelling_of_a_path_opens_what_its_plain_name_does_not(gateway: GatewayProcess, path: str) -> None:
    answer = get_raw(gateway.endpoint, f"/v1/objects/{path}", Authorization=f"Bearer {token('alice')}")
    assert answer.status in {400, 403, 404}
    assert SECRET not in answer.body


WORDS = ("alice", "bob", "%62ob", "secret", "own", "shared", "private", "public", "top", "b", "gcp", "aws")
SIGNS = ("/", "//", "..", ".", "%2e", "%2F", "%5c", "*", "?provider=gs", "?provider=aws", "&", "%00", "://", ";", "%25")
PIECES = st.sampled_from(WORDS + SIGNS)


@given(st.lists(PIECES, min_size=1, max_size=8).map("".join), st.sampled_from(["alice", "carol", "nobody"]))
def test_whatever_the_path_a_user_gets_nothing_that_is_not_theirs(gateway: GatewayProcess, path: str, who: str) -> None:
    answer = get_raw(gateway.endpoint, f"/v1/objects/{path}", Authorization=f"Bearer {token(who)}")
    assert SECRET not in answer.body
    assert who != "nobody" or OWN not in answer.body


def test_only_what_may_be_read_is_listed(gateway: GatewayProcess) -> None:
    def buckets(who: str) -> list[str]:
        return [bucket["bucket"] for bucket in said(ask(gateway, who, "/v1/buckets"))["buckets"]]

    assert buckets("alice") == ["gcp://alice", "aws://shared"]
    assert buckets("bob") == ["gcp://bob"]
    assert buckets("nobody") == []
    assert len(buckets("root")) == 3

    def listed(who: str, query: str) -> tuple[list[str], list[str]]:
        page = said(ask(gateway, who, f"/v1/buckets/{query}"))
        return [found["name"] for found in page["objects"]], page["prefixes"]

    assert listed("alice", "shared") == (["public/a"], [])
    assert listed("alice", "shared?delimiter=/") == ([], ["public/"])
    assert listed("root", "shared?delimiter=/") == (["top"], ["private/", "public/"])
    for query in ("bob", "shared?prefix=private/", "shared?prefix=t"):
        refused = ask(gateway, "alice", f"/v1/buckets/{query}")
        assert (refused.status, "has no scope read:" in said(refused)["message"]) == (403, True)


def test_a_bucket_that_is_not_there_does_not_tell_which_others_are(gateway: GatewayProcess) -> None:
    assert said(ask(gateway, "bob", "/v1/objects/bob/x?provider=aws"))["hint"] == "this gateway has gcp://bob"
    assert "shared" in said(ask(gateway, "root", "/v1/objects/none/x"))["hint"]


HIDDEN = {
    "an object": ("GET", "/v1/objects/{}/own"),
    "an object by provider": ("GET", "/v1/objects/{}/own?provider=gcp"),
    "a member": ("GET", "/v1/objects/{}/own?archpath=x"),
    "a result": ("GET", "/v1/objects/{}/own?transform_id=x"),
    "a write": ("PUT", "/v1/objects/{}/own"),
    "a delete": ("DELETE", "/v1/objects/{}/own?provider=gcp"),
    "a list": ("GET", "/v1/buckets/{}"),
    "a list by provider": ("GET", "/v1/buckets/{}?provider=gcp&prefix=o"),
    "a prefetch": ("POST", "/v1/cache/prefetch?bucket={}&object=own"),
    "a prefetch of many": ("POST", "/v1/cache/prefetch?bucket={}&prefix="),
    "an evict": ("POST", "/v1/cache/evict?bucket={}&object=own&provider=gcp"),
}


@pytest.mark.parametrize(("method", "path"), HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("who", ["nobody", "alice"])
def test_a_hidden_bucket_answers_like_one_that_is_not_there(
    gateway: GatewayProcess, who: str, method: str, path: str
) -> None:
    def answered(bucket: str) -> tuple[int, dict[str, Any]]:
        answer = ask(gateway, who, path.format(bucket), "-X", method, "-H", "X-Request-Id: same")
        return answer.status, {name: value.replace(bucket, "BUCKET") for name, value in said(answer).items()}

    hidden = answered("bob")
    assert hidden[0] == 403
    assert hidden == answered("none")


def test_buckets_of_one_name_do_not_tell_of_those_among_them_that_are_hidden(tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("same-name")
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "x").write_text(name)
    users = [
        {"name": "alice", "token": token("alice"), "scopes": ["read:gcp://b/*"]},
        {"name": "root", "token": token("root"), "scopes": ["admin"]},
    ]
    (folder / "tokens").write_text(json.dumps({"tokens": users}))
    buckets = {"gcp://b": folder / "one", "aws://b": folder / "two"}
    with running_gateway(folder / "gateway", buckets, settings={"auth.tokens_file": folder / "tokens"}) as gateway:
        assert "gcp://b and aws://b" in said(ask(gateway, "root", "/v1/objects/b/x"))["message"]
        assert ask(gateway, "alice", "/v1/objects/b/x").body == b"one", "for her there is one"


def test_writing_needs_its_own_scope(gateway: GatewayProcess) -> None:
    assert ask(gateway, "alice", "/v1/objects/alice/up/new", "-T", "/dev/null", "-X", "PUT").status == 200
    refused = ask(gateway, "alice", "/v1/objects/alice/own", "-X", "DELETE")
    assert said(refused)["message"] == "the token of alice has no scope write:gcp://alice/own"
    assert ask(gateway, "alice", "/v1/objects/alice/up/new", "-X", "DELETE").status == 204
    assert ask(gateway, "carol", "/v1/objects/alice/up/old", "-X", "DELETE").status == 403


def test_the_cache_is_filled_by_who_may_read_and_emptied_by_who_may_write(gateway: GatewayProcess) -> None:
    def post(who: str, what: str) -> Answer:
        return ask(gateway, who, f"/v1/cache/{what}", "-X", "POST")

    assert said(post("carol", "prefetch?bucket=alice&prefix="))["objects"] == 3
    assert said(post("alice", "prefetch?bucket=shared&prefix="))["objects"] == 1  # of three
    assert post("carol", "prefetch?bucket=bob&prefix=").status == 403
    assert post("carol", "prefetch?bucket=bob&object=secret").status == 403
    assert post("carol", "evict?bucket=alice&object=own").status == 403
    assert post("carol", "evict?bucket=alice&prefix=").status == 403
    assert said(post("alice", "evict?bucket=alice&prefix="))["objects"] == 1  # that which may be written, up/old
    assert post("root", "evict?bucket=bob&prefix=").status == 200


def test_code_is_registered_and_deleted_only_by_who_may(gateway: GatewayProcess) -> None:
    refused = register(gateway, "alice", package_of(name="mine"))
    assert (refused.status, said(refused)["message"]) == (
        403,
        "the token of alice has no scope transforms:register",
    )
    made = register(gateway, "bob", package_of(name="mine"))
    assert (made.status, said(made)["created_by"]) == (201, "bob")
    again = register(gateway, "root", package_of(name="mine"))
    assert (again.status, said(again)["created_by"]) == (200, "bob")
    assert said(ask(gateway, "alice", "/v1/transforms/mine"))["created_by"] == "bob"
    assert ask(gateway, "alice", "/v1/transforms/mine", "-X", "DELETE").status == 403
    assert ask(gateway, "bob", "/v1/transforms/mine", "-X", "DELETE").status == 204


def test_a_transform_is_applied_by_who_may_read_and_use_it(gateway: GatewayProcess) -> None:
    made = said(register(gateway, "bob", package_of(name="applied")))
    query = f"?transform_id={made['id']}"
    refused = ask(gateway, "carol", f"/v1/objects/alice/own{query}")
    assert said(refused)["message"] == "the token of carol has no scope transforms:use"
    refused = ask(gateway, "alice", f"/v1/objects/bob/own{query}")
    assert said(refused)["message"] == "the token of alice has no scope read:*://bob/own"


def test_the_token_of_one_transform_opens_its_package_and_nothing_else(gateway: GatewayProcess) -> None:
    one, other = (said(register(gateway, "bob", package_of(name=name)))["id"] for name in ("one", "one-more"))
    pod = signed(f"package:{one}")
    assert ask(gateway, pod, f"/v1/transforms/{one}/package").body == package_of(name="one")
    for path in (
        *(f"/v1/transforms/{name}/package" for name in (other, "one", "one-more", "nothing", quote(one + "\0"))),
        *(f"/v1/transforms/{one}", "/v1/transforms", f"/v1/transforms/{one}/logs", f"/v1/transforms/{one}/stats"),
        *("/v1/objects/alice/own", "/v1/objects/bob/secret", f"/v1/objects/alice/own?transform_id={one}"),
        *("/v1/buckets/alice", f"/v1/environments/{'0' * 64}"),
    ):
        assert ask(gateway, pod, path).status == 403, path
    assert register(gateway, pod, package_of(name="one")).status == 403
    assert ask(gateway, "alice", f"/v1/transforms/{one}/package").status == 403
    assert ask(gateway, "bob", "/v1/transforms/one-more/package").body == package_of(name="one-more")


def test_a_worker_reads_the_shard_of_its_job_and_no_other(gateway: GatewayProcess) -> None:
    worker = signed(f"read:{exact('gcp://alice/odd *name')}")
    assert ask(gateway, worker, "/v1/objects/alice/odd%20*name").body == OWN
    assert ask(gateway, worker, "/v1/objects/alice/own").status == 403


def test_a_worker_of_a_pipeline_reads_what_the_stages_before_make_of_its_shard_and_nothing_else(
    gateway: GatewayProcess,
) -> None:
    one, other = (said(register(gateway, "bob", package_of(name=name)))["id"] for name in ("first", "second"))
    worker = signed(f"apply:{one}@{exact('gcp://alice/own')}")
    for query, status in (
        (f"?transform_id={one}", 422),  # it may, and the object is no shard
        *(
            (query, 403)
            for query in ("", f"?transform_id={other}", f"?transform_id={one},{other}", "?transform_id=first")
        ),
    ):
        assert ask(gateway, worker, f"/v1/objects/alice/own{query}").status == status, query
    assert ask(gateway, worker, f"/v1/objects/alice/up/old?transform_id={one}").status == 403
    assert ask(gateway, worker, f"/v1/objects/bob/own?transform_id={one}").status == 403
    for path in ("", f"/{one}", f"/{one}/logs", f"/{one}/stats", f"/{one}/package"):
        assert ask(gateway, worker, f"/v1/transforms{path}").status == 403, path
    for action in ("start", "stop"):
        assert ask(gateway, worker, f"/v1/transforms/{other}/{action}", "-X", "POST").status == 403, action
    assert ask(gateway, worker, "/v1/buckets/alice").status == 403
    assert ask(gateway, worker, "/v1/cache/prefetch?bucket=alice&object=own", "-X", "POST").status == 403


def test_a_token_that_has_expired_or_is_wrong_or_missing_is_a_clear_401(gateway: GatewayProcess) -> None:
    for bearer, message in (
        (signed("admin", seconds=-60), "has expired"),
        ("wrong", "is wrong"),
        ("a.b.c", "is wrong"),
    ):
        refused = ask(gateway, bearer, "/v1/objects/alice/own")
        assert (refused.status, message in said(refused)["message"]) == (401, True)
    missing = curl(f"{gateway.endpoint}/v1/buckets")
    assert (missing.status, said(missing)["message"]) == (401, "no bearer token came with the request")
    assert missing.headers["www-authenticate"].startswith("Bearer")


FILLED = {
    "([^/]+)/?": "x",
    "([^/]+)": "x",
    "([0-9a-f]{64})": "0" * 64,
    "/?": "",
    ".*": "alice/own",
}
OPEN_TO_ALL = {"/v1/buckets", "/v1/cache", "/v1/cluster", "/metrics", "/healthz", "/readyz"}
"""What a token without any scope may ask, because the answer holds nothing of anybody's."""


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, route.pattern.pattern)
        for route in every_route()
        for method in route.methods
        if route.name != "demand"  # gateways without pods do not have it
    ],
)
def test_a_token_without_scopes_opens_nothing(gateway: GatewayProcess, method: str, path: str) -> None:
    for pattern, value in FILLED.items():
        path = path.replace(pattern, value)
    path = {"/v1/cache/prefetch": "/v1/cache/prefetch?bucket=alice&object=own"}.get(path, path)
    path = {"/v1/cache/evict": "/v1/cache/evict?bucket=alice&object=own"}.get(path, path)
    path = {"/v1/buckets/x": "/v1/buckets/alice"}.get(path, path)
    options = ["-I"] if method == "HEAD" else ["-X", method]
    answer = ask(gateway, "nobody", path, *options)
    assert answer.status == (200 if path in OPEN_TO_ALL else 403), answer.body


def test_files_that_can_not_be_used_stop_the_start_with_the_reason(
    gateway: GatewayProcess, tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "tokens").write_text("[[tokens]]\nname = 'a'\n")
    with (
        pytest.raises(AssertionError, match=r"auth\.tokens_file .*tokens\.0\.token: Field required"),
        running_gateway(folder / "gateway", {}, settings={"auth.tokens_file": folder / "tokens"}),
    ):
        pass
