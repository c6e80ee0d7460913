from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shardgate_gateway.etl.kubernetes.routing import (
    MAX_LEFT_OUT_SECONDS,
    Endpoint,
    Here,
    Pod,
    Routes,
    ready_endpoints,
)


def endpoint(pod: str, *, node: str = "n", zone: str = "z", capacity: int = 2, address: str = "10.0.0.1") -> Endpoint:
    return Endpoint(pod, address, 8470, node, zone, capacity)


def routes(*endpoints: Endpoint, node: str = "here", zone: str = "") -> Routes:
    routes = Routes(Here(node, zone))
    routes.update(endpoints)
    return routes


def chosen(routes: Routes, now: float = 0.0) -> str | None:
    pod = routes.choose(now)
    return pod.endpoint.pod if pod else None


def take(routes: Routes, now: float = 0.0) -> Pod:
    pod = routes.choose(now)
    assert pod is not None
    routes.take(pod)
    return pod


def listed(**conditions: bool) -> dict[str, Any]:
    return {
        "ports": [{"port": 8470}],
        "endpoints": [
            {"addresses": ["10.0.0.7"], "conditions": conditions, "targetRef": {"name": "pod"}, "nodeName": "node"}
        ],
    }


def test_ready_pods_are_read_from_endpoint_slices() -> None:
    slices = [listed(ready=True, serving=True, terminating=False), {"ports": None, "endpoints": None}]
    assert list(ready_endpoints(slices, 3)) == [Endpoint("pod", "10.0.0.7", 8470, "node", "", 3)]


def test_pods_that_are_not_ready_or_terminating_are_not_read() -> None:
    slices = [listed(ready=False), listed(ready=True, terminating=True)]
    assert list(ready_endpoints(slices, 3)) == []


def test_the_pod_with_the_least_work_per_worker_is_first() -> None:
    pods = routes(endpoint("small", node="here", capacity=1), endpoint("large", capacity=4))
    assert [take(pods).endpoint.pod for _ in range(4)] == ["small", "large", "large", "large"]


def test_among_equals_the_own_node_comes_first_then_the_own_zone() -> None:
    far, near, own = endpoint("far"), endpoint("near", zone="east"), endpoint("own", node="here", zone="east")
    pods = routes(far, near, own)
    assert chosen(pods) == "own"
    pods.update([far, near])
    assert chosen(pods) == "near"
    pods.update([far])
    assert chosen(pods) == "far"


def test_the_own_zone_comes_first_where_no_pod_was_ever_on_the_own_node() -> None:
    pods = routes(endpoint("far"), endpoint("near", zone="east"), zone="east")
    assert {chosen(pods) for _ in range(100)} == {"near"}


def test_a_gateway_that_does_not_know_where_it_is_prefers_nobody() -> None:
    pods = routes(endpoint("a", node=""), endpoint("b", node=""), node="")
    assert {chosen(pods) for _ in range(100)} == {"a", "b"}


def test_a_full_pod_gets_nothing_until_a_job_is_given_back() -> None:
    pods = routes(endpoint("a", capacity=1))
    pod = take(pods)
    assert chosen(pods) is None
    pods.give_back(pod)
    assert chosen(pods) == "a"


def test_a_pod_where_a_job_is_stuck_gets_no_other() -> None:
    pods = routes(endpoint("a", capacity=5))
    pod = take(pods)
    pod.stuck += 1
    assert chosen(pods) is None


def test_a_pod_that_is_not_listed_any_more_gets_nothing_and_is_remembered_only_while_it_works() -> None:
    pods = routes(endpoint("a"))
    pod = take(pods)
    pods.update([])
    assert chosen(pods) is None
    assert pods.empty
    pods.update([endpoint("a")])
    assert take(pods) is pod
    pods.update([])
    pods.give_back(pod)
    pods.give_back(pod)
    pods.update([endpoint("a")])
    assert take(pods) is not pod


def test_a_pod_that_fails_is_left_out_ever_longer() -> None:
    pods = routes(endpoint("a", capacity=100))
    now, pauses = 0.0, []
    for _ in range(8):
        pods.failed(take(pods, now), now)
        assert chosen(pods, now) is None
        back = pods.next_return(now)
        assert back is not None
        pauses.append(back - now)
        now = back
    assert pauses == sorted(pauses)
    assert pauses[0] < 1 < pauses[-1] == MAX_LEFT_OUT_SECONDS


def test_failures_of_jobs_that_were_on_their_way_together_count_as_one() -> None:
    pods = routes(endpoint("a"))
    pod = take(pods)
    pods.failed(pod, 0.0)
    first = pods.next_return(0.0)
    pods.failed(pod, 0.0)
    assert pods.next_return(0.0) == first


def test_a_pod_is_forgiven_when_it_works_or_its_endpoint_changes() -> None:
    pods = routes(endpoint("a", capacity=9))
    pod = take(pods)
    pods.failed(pod, 0.0)
    pods.worked(pod)
    assert chosen(pods) == "a"
    pods.failed(pod, 0.0)
    pods.update([endpoint("a", capacity=9, address="10.0.0.2")])
    assert chosen(pods) == "a"
    pods.failed(pod, 0.0)
    pods.update([])
    pods.update([endpoint("a", capacity=9, address="10.0.0.2")])
    assert chosen(pods) == "a"


names = st.sampled_from("abcd")
steps = st.one_of(
    st.tuples(st.just("update"), st.lists(st.tuples(names, st.integers(1, 3)), unique_by=lambda pair: pair[0])),
    st.tuples(st.just("take"), st.none()),
    st.tuples(st.just("give back"), st.integers(0, 20)),
    st.tuples(st.just("fail"), st.integers(0, 20)),
    st.tuples(st.just("later"), st.floats(0.1, 3)),
)


@given(st.lists(steps, max_size=60))
def test_whatever_happens_only_listed_pods_with_room_are_chosen_and_none_is_forgotten(script: list[Any]) -> None:
    pods = Routes()
    ready: dict[str, int] = {}
    out: list[Pod] = []
    now = 0.0
    for step, value in script:
        if step == "update":
            ready = dict(value)
            pods.update(endpoint(name, capacity=capacity) for name, capacity in value)
        elif step == "take" and (pod := pods.choose(now)):
            name = pod.endpoint.pod
            assert name in ready
            assert sum(other.endpoint.pod == name for other in out) < ready[name]
            assert pod.left_out_until <= now
            pods.take(pod)
            out.append(pod)
        elif step == "give back" and out:
            pods.give_back(out.pop(value % len(out)))
        elif step == "fail" and out:
            pods.failed(out[value % len(out)], now)
        elif step == "later":
            now += value
    for pod in out:
        pods.give_back(pod)
    now += 10 * MAX_LEFT_OUT_SECONDS
    assert pods.empty == (not ready)
    assert (chosen(pods, now) is not None) == bool(ready)
    assert all(pod.taken == 0 for pod in out)
