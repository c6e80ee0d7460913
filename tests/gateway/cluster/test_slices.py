"""From EndpointSlices to members: the pure part. `tests/cluster/test_gateways.py` asks the real API server."""

from __future__ import annotations

from shardgate_gateway.cluster.slices import members_of


def endpoint(name, address, *, ready=True):
    return {"addresses": [address], "targetRef": {"kind": "Pod", "name": name}, "conditions": {"ready": ready}}


def of(*endpoints, ports=({"name": "http", "port": 51080},)):
    return {"endpoints": list(endpoints), "ports": list(ports)}


def test_ready_pods_are_members_by_their_own_names():
    found = members_of([of(endpoint("gw-0", "10.0.0.1")), of(endpoint("gw-1", "10.0.0.2"))])
    assert found == {"gw-0": "http://10.0.0.1:51080", "gw-1": "http://10.0.0.2:51080"}


def test_a_pod_that_is_not_ready_is_no_member():
    assert members_of([of(endpoint("gw-0", "10.0.0.1", ready=False))]) == {}


def test_the_port_called_http_counts_and_else_the_only_one():
    two = ({"name": "metrics", "port": 9}, {"name": "http", "port": 8})
    assert members_of([of(endpoint("gw-0", "10.0.0.1"), ports=two)]) == {"gw-0": "http://10.0.0.1:8"}
    assert members_of([of(endpoint("gw-0", "10.0.0.1"), ports=({"port": 7},))]) == {"gw-0": "http://10.0.0.1:7"}


def test_addresses_of_ipv6_get_brackets():
    assert members_of([of(endpoint("gw-0", "fd00::1"))]) == {"gw-0": "http://[fd00::1]:51080"}


def test_slices_without_endpoints_or_pods_have_no_members():
    assert members_of([{"endpoints": None, "ports": None}, of({"addresses": ["10.0.0.9"], "conditions": {}})]) == {}
