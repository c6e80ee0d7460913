"""Which gateways a client goes to by itself, and that it goes nowhere else."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from shardgate import wire
from shardgate.reach import Reach


@pytest.fixture
def member():
    """A server that says it is the gateway `b`; yields its URL, and the headers of what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(dict(self.headers))
            body = json.dumps({"status": "alive", "member": "b", "proof": f"b {self.path.partition('=')[2]}"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def cluster_of(**urls):
    """What the endpoint says: a gateway proves who it is by its name and the challenge, in these tests."""
    return lambda challenge: {
        "members": [{"name": name, "url": url, "proof": f"{name} {challenge}"} for name, url in urls.items()]
    }


def test_nothing_is_tried_before_an_answer_came_through_another_gateway(member):
    reach = Reach()
    reach.learn(cluster_of(b=member[0]))
    reach.saw({})
    reach.learn(cluster_of(b=member[0]))
    assert reach.headers() == {}
    assert member[1] == []


def test_a_gateway_that_answers_by_its_name_is_said_to_be_reached_and_got_no_token_for_it(member):
    reach = Reach()
    reach.saw({wire.MEMBER_HEADER: "b"})
    reach.learn(cluster_of(a="http://127.0.0.1:1", b=member[0]))
    assert reach.headers() == {wire.REACH_HEADER: "b"}
    assert "Authorization" not in member[1][0]
    reach.lost("b")
    assert reach.headers() == {}


def test_something_else_at_a_gateways_address_is_not_taken_for_it_and_not_tried_again_soon(member):
    reach = Reach()
    for _ in range(3):
        reach.saw({wire.MEMBER_HEADER: "c"})
        reach.learn(cluster_of(c=member[0]))
    assert reach.headers() == {}
    assert len(member[1]) == 1


def test_a_machine_that_knows_the_name_and_not_the_key_is_not_taken_for_the_gateway(member):
    reach = Reach()
    reach.saw({wire.MEMBER_HEADER: "b"})
    reach.learn(lambda _: {"members": [{"name": "b", "url": member[0], "proof": "what only the key can tell"}]})
    assert reach.headers() == {}
    assert "Authorization" not in member[1][0]


def test_a_gateway_that_is_not_there_is_not_reached():
    reach = Reach()
    reach.saw({wire.MEMBER_HEADER: "b"})
    reach.learn(cluster_of(b="http://127.0.0.1:1"))
    assert reach.headers() == {}


def test_redirects_lead_to_reached_gateways_and_nowhere_else(member):
    reach = Reach()
    reach.saw({wire.MEMBER_HEADER: "b"})
    reach.learn(cluster_of(b=member[0]))
    target = f"{member[0]}/v1/objects/x/y"
    assert reach.leads_to({wire.MEMBER_HEADER: "b", "Location": target}) == ("b", target)
    assert reach.leads_to({wire.MEMBER_HEADER: "c", "Location": target}) is None
    for location in ("http://elsewhere/v1/objects/x/y", f"{member[0]}.elsewhere/v1/objects/x/y", ""):
        assert reach.leads_to({wire.MEMBER_HEADER: "b", "Location": location}) is None
        reach.learn(cluster_of(b=member[0]))
        assert reach.headers(), "it is seen again"


def test_a_gateway_that_came_back_at_another_address_is_tried_there(member):
    reach = Reach()
    reach._urls["b"] = "http://10.0.0.1:51080"
    location = f"{member[0]}/v1/objects/x/y"
    assert reach.leads_to({wire.MEMBER_HEADER: "b", "Location": location}) is None, "nobody looked yet who that is"
    assert reach.headers() == {}
    reach.learn(cluster_of(b=member[0]))
    assert reach.leads_to({wire.MEMBER_HEADER: "b", "Location": location}) == ("b", location)
