"""Who is taken for a gateway: whoever holds the key that the gateways share, and nobody else."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from gateway_cluster import running_cluster
from gateway_process import GatewayProcess
from readers import curl

from shardgate import Client, wire
from shardgate.reach import Reach
from shardgate_gateway.auth.scopes import PEER
from shardgate_gateway.auth.tokens import Tokens
from shardgate_gateway.settings import AuthSettings

KEY = "k" * 40
READER, OTHER = "reader-reader-reader", "other-other-other-other"
MEMBER = wire.MEMBER_HEADER.lower()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, origin):
    folder = tmp_path_factory.mktemp("trust")
    users = [
        {"name": "reader", "token": READER, "scopes": ["read:http://b/*"]},
        {"name": "other", "token": OTHER, "scopes": ["read:gcp://elsewhere/*"]},
    ]
    (folder / "tokens.json").write_text(json.dumps({"tokens": users}))
    settings = {"auth.tokens_file": str(folder / "tokens.json"), "auth.signing_key": KEY}
    origin.put("data", b"data")
    with running_cluster(folder, {"http://b": origin.url}, names="ab", settings=settings) as gateways:
        yield gateways


def bearer(token):
    return ["-H", f"Authorization: Bearer {token}"]


def test_a_user_is_judged_by_the_owner_with_the_users_own_token(cluster):
    for name in "ab":
        url = cluster[name].url("http://b", "data")
        assert curl(url, *bearer(READER)).body == b"data"
        assert curl(url, *bearer(OTHER)).status == 403
        assert curl(url).status == 401


def test_a_request_that_only_says_that_a_gateway_sends_it_is_one_of_its_sender(cluster):
    owner, other = cluster.ranked("http://b", "data")
    url = cluster[other].url("http://b", "data")
    for claim in ("a", READER, "x.y.z"):
        answer = curl(url, *bearer(READER), "-H", f"{wire.FORWARDED_HEADER}: {claim}")
        assert answer.headers[MEMBER] == owner, "it is passed on as if nothing had been said"
    peer = Tokens(AuthSettings(signing_key=KEY), "").mint("x", {PEER}, seconds=60)
    answer = curl(url, *bearer(READER), "-H", f"{wire.FORWARDED_HEADER}: {peer}")
    assert MEMBER not in answer.headers, "what a gateway asks is answered where it asks"


def test_a_request_that_a_gateway_means_for_another_one_is_refused(cluster):
    """An address may be another gateway's by now, or the sender's own: then it would wait for itself."""
    _, other = cluster.ranked("http://b", "data")
    peer = Tokens(AuthSettings(signing_key=KEY), "").mint("x", {PEER}, seconds=60)
    proof = [*bearer(READER), "-H", f"{wire.FORWARDED_HEADER}: {peer}"]
    statuses = [
        curl(cluster[other].url("http://b", "data"), *proof, "-H", f"{wire.MEMBER_HEADER}: {name}").status
        for name in (other, "away")
    ]
    assert statuses == [200, 503]
    assert (
        curl(cluster[other].url("http://b", "data"), *bearer(READER), "-H", f"{wire.MEMBER_HEADER}: away").status == 200
    )


def test_only_a_gateway_may_have_a_cached_object_forgotten(cluster):
    url = f"{cluster['a'].endpoint}/v1/cluster/forget?provider=http&bucket=b&object=data"
    peer = Tokens(AuthSettings(signing_key=KEY), "").mint("x", {PEER}, seconds=60)
    assert curl(url, "-X", "POST", *bearer(READER)).status == 403
    assert curl(url, "-X", "POST", *bearer(peer)).status == 204


def test_a_gateway_proves_to_a_client_who_it_is_before_that_sends_its_token(cluster):
    """What the endpoint says that it would answer can't be known without their key, nor used again."""

    def told(challenge):
        return json.loads(curl(f"{cluster['a'].endpoint}/v1/cluster?challenge={challenge}", *bearer(READER)).body)[
            "members"
        ]

    for challenge in ("x", "y", "%00", "%C3%A4"):
        answers = {n: json.loads(curl(f"{cluster[n].endpoint}/healthz?challenge={challenge}").body) for n in "ab"}
        assert {n: answers[n]["proof"] for n in "ab"} == {each["name"]: each["proof"] for each in told(challenge)}
    proofs = [each["proof"] for challenge in "xy" for each in told(challenge)]
    assert len(set(proofs)) == 4
    assert all(len(proof) == 64 for proof in proofs)


def test_a_challenge_that_somebody_else_passes_on_proves_nothing(cluster, tmp_path):
    """Who sits at an address that was a gateway's can ask the real one, and is not taken for it."""
    owner, other = cluster.ranked("http://b", "data")
    asked, stolen = [], []

    class Relaying(BaseHTTPRequestHandler):
        def do_GET(self):
            if "Authorization" in self.headers or not self.path.startswith("/healthz"):
                stolen.append(self.path)
            asked.append(self.path)
            body = curl(cluster[owner].endpoint + self.path).body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    own = {"serve.port", "serve.workers", "cache.dir", "state.dir"}
    users = {name: value for name, value in cluster[other].settings.items() if name not in own}
    with HTTPServer(("127.0.0.1", 0), Relaying) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        gateway = GatewayProcess(tmp_path, cluster[other].buckets, settings=users)
        members = {other: gateway.endpoint, owner: f"http://127.0.0.1:{server.server_port}"}
        gateway.settings |= {"cluster.name": other, "cluster.members": json.dumps(members)}
        try:
            gateway.start()
            reach = Reach()
            reach.saw({wire.MEMBER_HEADER: owner})
            reach.learn(Client(gateway.endpoint, READER)._transport._show_cluster)
            assert len(asked) == 1
            assert reach.headers() == {}, "its list says an address that is not the owner's"
            reach.saw({wire.MEMBER_HEADER: owner})
            reach._try_at = 0.0
            reach.learn(Client(cluster[other].endpoint, READER)._transport._show_cluster)
            assert reach.headers() == {wire.REACH_HEADER: owner}
        finally:
            gateway.close()
            server.shutdown()
    assert stolen == []


def test_a_gateway_that_others_find_by_a_name_server_proves_the_address_at_which_it_is_asked(cluster, tmp_path):
    settings = {key: cluster["a"].settings[key] for key in ("auth.tokens_file", "auth.signing_key")}
    gateway = GatewayProcess(tmp_path, {"file://f": tmp_path}, settings=settings)
    gateway.settings |= {
        "cluster.membership": "dns",
        "cluster.name": "c",
        "cluster.dns": f"http://localhost:{gateway.port}",
    }
    try:
        gateway.start()
        proof = json.loads(curl(f"{gateway.endpoint}/healthz?challenge=x").body)["proof"]
        assert proof == Tokens(AuthSettings(signing_key=KEY), "serve").prove("c", gateway.endpoint, "x")
    finally:
        gateway.close()


def test_our_client_follows_with_its_token_to_members_only(cluster):
    other = cluster.others("http://b", "data")[0]
    client = Client(cluster[other].endpoint, READER)
    for direct in (False, True):
        with client.open("http://b", "data") as reader:
            assert reader.read() == b"data"
            assert (wire.MEMBER_HEADER not in reader.headers) == direct
