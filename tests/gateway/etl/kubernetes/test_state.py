"""What the watches saw, in plain words. The objects are as a real API server sent them, shortened."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.etl.kubernetes.state import Failure, Observed, Verdict, judge
from shardgate_gateway.etl.runner import RunnerState

NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)
THEN = "2026-01-01T12:00:00Z"
BEFORE = "2026-01-01T11:00:00Z"
PATIENCE = 60.0
ID = "train-0123456789abcdef"


def deployment(replicas: int = 1, *, conditions: list[Any] | None = None, **notes: str) -> dict[str, Any]:
    annotations = {names.ANNOTATION_ID: ID, names.ANNOTATION_SPEC: "s1"}
    annotations |= {f"shardgate.io/{name}": value for name, value in notes.items()}
    return {
        "metadata": {"name": "t", "generation": 2, "resourceVersion": "1", "annotations": annotations},
        "spec": {"replicas": replicas},
        "status": {"observedGeneration": 2, "conditions": conditions or []},
    }


def pod(
    name: str = "t-1", *, container: Any = None, ready: bool = False, spec: str = "s1", **more: Any
) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": THEN}, *more.pop("conditions", [])]
    status = {"phase": "Running" if container else "Pending", "conditions": conditions, **more.pop("status", {})}
    if container is not None:
        status["containerStatuses"] = [{"name": "etl", "image": "r/slim:1", "restartCount": 0, **container}]
    limits = {"name": "etl", "resources": {"limits": {"memory": "64Mi"}}}
    return {
        "metadata": {"name": name, "creationTimestamp": THEN, "annotations": {names.ANNOTATION_SPEC: spec}, **more},
        "spec": {"nodeName": "node-1", "containers": [limits]},
        "status": status,
    }


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason, "message": message}}, "ready": False, "started": False, **more}


def ended(code: int, message: str = "", reason: str = "Error", began: str = THEN, **more: Any) -> dict[str, Any]:
    terminated = {"exitCode": code, "message": message, "reason": reason, "startedAt": began, "finishedAt": THEN}
    return {"state": {"terminated": terminated}, "ready": False, "started": False, **more}


RUNNING = {"state": {"running": {}}, "ready": True, "started": True}
LOADING = {"state": {"running": {}}, "ready": False, "started": False}
READY = pod("t-r", container=RUNNING, ready=True)
UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/2 nodes are available: 2 Insufficient cpu.",
    "lastTransitionTime": THEN,
}


def verdict(*pods: dict[str, Any], of: dict[str, Any] | None = None, now: datetime = NOW, **events: Any) -> Verdict:
    by_pod = {name.replace("_", "-"): said for name, said in events.items()}
    return judge(Observed(of or deployment(), pods, by_pod), now=now, patience=PATIENCE)


def refused(message: str, generation: int = 2) -> dict[str, Any]:
    condition = {"type": "ReplicaFailure", "status": "True", "message": message, "lastTransitionTime": THEN}
    refused = deployment(conditions=[{**condition, "reason": "FailedCreate"}])
    refused["status"]["observedGeneration"] = generation
    return refused


def test_a_transform_that_nobody_asked_for_is_pending() -> None:
    status = judge(Observed(), now=NOW, patience=PATIENCE).status
    assert (status.state, status.message) == ("pending", "nobody has asked for it yet")


def test_at_rest_it_says_why() -> None:
    idle = verdict(of=deployment(0, idle=THEN))
    stopped = verdict(of=deployment(0, stopped=THEN))
    failed = verdict(of=deployment(0, failed=Failure("it broke", "mend it", NOW).dump()))
    assert (idle.status.state, idle.hopeless) == ("idle", False)
    assert (stopped.status.state, stopped.hopeless) == ("stopped", True)
    assert f"`shardgate etl start {ID}`" in stopped.status.hint
    assert (failed.status.state, failed.status.message, failed.status.hint) == ("failed", "it broke", "mend it")
    assert failed.status.since == NOW


def test_the_way_up_is_told_step_by_step() -> None:
    fresh = pod()
    del fresh["spec"]["nodeName"]
    steps = [
        verdict(),
        verdict(fresh),
        verdict(pod(container=waiting("ContainerCreating"))),
        verdict(pod(container=LOADING)),
        verdict(READY),
    ]
    assert [step.status.state for step in steps] == ["pending", "pending", "starting", "starting", "ready"]
    messages = [step.status.message for step in steps]
    assert messages[1] == "waiting for a node"
    assert "image is being pulled" in messages[2]
    assert "fetching the package" in messages[3]
    assert not any(step.hopeless for step in steps)
    assert steps[-1].status.workers == 1


@pytest.mark.parametrize(
    ("broken", "words", "hopeless"),
    [
        (pod(conditions=[UNSCHEDULABLE]), "no node fits: 0/2 nodes are available: 2 Insufficient cpu.", False),
        (
            pod(container=waiting("ErrImagePull", 'rpc error: code = NotFound desc = failed to pull "r/x": not found')),
            'its image r/slim:1 can\'t be pulled: failed to pull "r/x": not found',
            True,
        ),
        (
            pod(
                container=waiting(
                    "ImagePullBackOff",
                    'Back-off pulling image "r/x": ErrImagePull: rpc error: code = Unknown desc = 401 Unauthorized',
                )
            ),
            "its image r/slim:1 can't be pulled: 401 Unauthorized",
            True,
        ),
        (
            pod(container=waiting("ErrImagePull", "rpc error: code = Unknown desc = dial tcp: connection refused")),
            "its image r/slim:1 can't be pulled: dial tcp: connection refused",
            False,
        ),
        (
            pod(container=waiting("InvalidImageName", 'couldn\'t parse image name "A:"')),
            "can't be pulled: couldn't",
            True,
        ),
        (
            pod(container=waiting("CreateContainerConfigError", 'secret "team-key" not found')),
            'its container can\'t be created: secret "team-key" not found',
            True,
        ),
        (
            pod(container=ended(78, json.dumps({"message": "ImportError: no module named x", "hint": "add it"}))),
            "ImportError: no module named x",
            True,
        ),
        (
            pod(container=ended(137, reason="OOMKilled")),
            "its memory limit of 64Mi is too small: it was killed when it needed more",
            True,
        ),
        (
            pod(container=ended(128, 'exec: "python": executable file not found', "StartError")),
            'its container can\'t run: exec: "python": executable file not found',
            True,
        ),
        (
            pod(container=ended(1, "Traceback: boom")),
            "it ended with exit code 1 while it started: Traceback: boom",
            False,
        ),
        (
            pod(container=waiting("CrashLoopBackOff", restartCount=1, lastState=ended(1, "boom")["state"])),
            "it ended with exit code 1 while it started: boom",
            True,
        ),
        (pod(container=ended(137)), "it was killed while it started", False),
        (
            pod(container=ended(75, json.dumps({"message": "the gateway answered 503", "hint": "wait"}))),
            "the gateway answered 503",
            False,
        ),
        (
            pod(
                status={"phase": "Failed", "reason": "Evicted", "message": "ephemeral local storage usage exceeds 8Gi"}
            ),
            "its pod was ended (Evicted): ephemeral local storage usage exceeds 8Gi",
            False,
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:40],
)
def test_what_is_wrong_with_a_pod_is_told_with_a_hint(broken: dict[str, Any], words: str, hopeless: bool) -> None:
    judged = verdict(broken)
    assert words in judged.status.message
    assert judged.status.hint
    assert judged.hopeless is hopeless
    assert (judged.status.state == "failed") is hopeless
    beside = verdict(broken, READY, of=deployment(2))
    assert beside.status.state == "degraded"
    assert beside.status.message.startswith("1 of 2 pods are ready: ")
    assert not beside.hopeless


def test_what_may_heal_fails_when_patience_is_over() -> None:
    broken = pod(conditions=[UNSCHEDULABLE])
    before, after = NOW + timedelta(seconds=29), NOW + timedelta(seconds=31)
    assert verdict(broken, now=before).status.state == "pending"
    assert verdict(broken, now=after) == Verdict(verdict(broken, now=after).status, hopeless=True)
    assert verdict(broken, now=after).status.state == "failed"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            'pods "t-1-x" is forbidden: exceeded quota: tight, requested: limits.memory=512Mi, used: 0, limited: 100Mi',
            "the namespace's quota is used up: tight, requested: limits.memory=512Mi, used: 0, limited: 100Mi",
        ),
        (
            'pods "t-1-x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot',
            'the cluster does not admit its pod: violates PodSecurity "restricted:latest": runAsNonRoot',
        ),
        (
            'admission webhook "policy.example" denied the request: no team',
            'the cluster does not admit its pod: admission webhook "policy.example" denied the request: no team',
        ),
    ],
)
def test_a_pod_that_is_not_admitted_fails_at_once(message: str, words: str) -> None:
    judged = verdict(of=refused(message))
    assert judged.hopeless
    assert judged.status.message == words
    assert not verdict(of=refused(message, generation=1)).hopeless, "the controller speaks of an older version"


def test_a_probe_that_fails_is_told_with_what_it_said() -> None:
    silent = pod(container={**RUNNING, "ready": False})
    said = [{"reason": "Unhealthy", "message": "Readiness probe failed: HTTP probe failed with statuscode: 503"}]
    judged = verdict(silent, t_1=said)
    assert judged.status.message == f"it runs and does not answer: {said[0]['message']}"
    assert not judged.hopeless
    late = pod(container=waiting("CrashLoopBackOff", restartCount=1, lastState=ended(137)["state"]))
    said = [{"reason": "Unhealthy", "message": "Startup probe failed: connection refused"}]
    assert verdict(late, t_1=said).status.message == "it was not ready in time"


@pytest.mark.parametrize(
    ("said", "count", "told"),
    [
        ("HTTP probe failed with statuscode: 404", 1, True),
        ("HTTP probe failed with statuscode: 503", 9, False),
        ("dial tcp 10.0.0.1:8000: connect: connection refused", 2, False),
        ("dial tcp 10.0.0.1:8000: connect: connection refused", 3, True),
    ],
)
def test_a_program_that_never_answered_as_it_should_is_told_as_soon_as_it_is_not_just_starting(
    said: str, count: int, told: bool
) -> None:
    event = {"reason": "Unhealthy", "message": f"Startup probe failed: {said}", "count": count}
    judged = verdict(pod(container=LOADING), t_1=[event])
    assert (said in judged.status.message) is told
    assert ("health path" in judged.status.hint) is told
    late = verdict(pod(container=LOADING), now=NOW + timedelta(hours=1), t_1=[event])
    assert not late.hopeless, "how long a start may take is etl.start_timeout's to say"


def test_our_own_runtime_may_import_for_as_long_as_a_start_may_take() -> None:
    event = {"reason": "Unhealthy", "message": "Startup probe failed: connect: connection refused", "count": 9}
    importing = pod(container=LOADING)
    importing["spec"]["containers"] = [{"name": "runtime", "command": ["python", "-m", "shardgate_runtime"]}]
    assert verdict(importing, t_1=[event]).status.message == "its runtime is fetching the package and loading it"


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (ended(137, reason="OOMKilled", began=BEFORE), "its memory limit of 64Mi is too small"),
        (ended(139, began=BEFORE, restartCount=7), "it ended with exit code 139 and is started again"),
        (
            waiting("CrashLoopBackOff", restartCount=3, lastState=ended(137, began=BEFORE)["state"]),
            "it was killed and is started again",
        ),
        ({**LOADING, "restartCount": 2, "lastState": ended(1, began=BEFORE)["state"]}, "exit code 1 and is started"),
    ],
)
def test_a_container_that_ends_after_it_was_ready_comes_back(run: dict[str, Any], words: str) -> None:
    judged = verdict(pod(container=run))
    assert words in judged.status.message
    assert (judged.status.state, judged.hopeless) == ("starting", False)


def test_readiness_that_is_lost_after_hours_has_only_just_been_lost() -> None:
    silent = pod(container={**RUNNING, "ready": False}, creationTimestamp=BEFORE)
    said = [{"reason": "Unhealthy", "message": "Readiness probe failed: timeout"}]
    assert not verdict(silent, t_1=said).hopeless
    assert verdict(silent, now=NOW + timedelta(minutes=1), t_1=said).hopeless


def test_a_pod_that_waited_long_for_its_image_is_not_late_when_its_program_begins() -> None:
    late = NOW + timedelta(minutes=10)
    began = (late - timedelta(seconds=5)).isoformat()
    about_to = pod(container={"state": {"running": {"startedAt": began}}, "ready": False, "started": True})
    starting = {"reason": "Unhealthy", "message": "Startup probe failed: HTTP probe failed with statuscode: 503"}
    judged = verdict(about_to, now=late, t_1=[starting])
    assert (judged.status.state, judged.hopeless) == ("starting", False)
    assert "does not answer" not in judged.status.message, "it has answered since"
    silent = starting | {"message": "Readiness probe failed: timeout", "firstTimestamp": THEN}
    assert not verdict(about_to, now=late, t_1=[silent]).hopeless
    assert verdict(about_to, now=late + timedelta(minutes=1), t_1=[silent]).hopeless


def test_a_node_that_does_not_answer_is_told() -> None:
    lost = verdict(pod(container=RUNNING))
    assert lost.status.message == "its node does not answer"
    assert not lost.hopeless


def test_evictions_count_for_a_while_and_fail_a_start_when_they_repeat() -> None:
    evicted = {"status": {"phase": "Failed", "reason": "Evicted", "message": "too much"}}
    once, twice = pod("t-1", **evicted), pod("t-2", **evicted)
    fresh = pod("t-3", container=LOADING)
    assert "Evicted" in verdict(once, fresh).status.message
    assert not verdict(once, fresh).hopeless
    assert verdict(once, twice, fresh).hopeless
    served = pod("t-2", container=ended(137, began=BEFORE), **evicted)
    assert not verdict(once, served, fresh).hopeless, "it was ready before"
    later = NOW + timedelta(hours=1)
    assert "fetching the package" in verdict(once, twice, fresh, now=later).status.message


def test_a_replacement_that_does_not_start_is_told_while_the_old_pods_answer() -> None:
    broken = pod("t-2", container=waiting("ErrImagePull", "not found"))
    judged = verdict(pod("t-r", container=RUNNING, ready=True, spec="s0"), broken)
    assert (judged.status.state, judged.status.workers, judged.hopeless) == ("degraded", 1, False)
    assert "pods that shall replace its own do not start: its image" in judged.status.message


def test_a_volume_that_does_not_come_is_told() -> None:
    said = [{"reason": "FailedMount", "message": 'MountVolume.SetUp failed: secret "t" not found'}]
    judged = verdict(pod(container=waiting("ContainerCreating")), t_1=said)
    assert 'secret "t" not found' in judged.status.message
    assert judged.status.state == "starting"
    assert verdict(pod(container=LOADING), t_1=said).status.hint == "", "it came after all"
    prepared = {"type": "PodReadyToStartContainers", "status": "True"}
    pulling = pod(container=waiting("ContainerCreating"), conditions=[prepared])
    assert "image is being pulled" in verdict(pulling, now=NOW + timedelta(hours=1), t_1=said).status.message


def test_the_past_does_not_count() -> None:
    crashed = ended(78, json.dumps({"message": "old", "hint": ""}))
    leaving = pod(container=crashed, deletionTimestamp=THEN)
    older = pod(container=crashed, spec="s0")
    recovered = pod(container={**RUNNING, "ready": False, "lastState": ended(1, "boom")["state"], "restartCount": 1})
    for past in (leaving, older, recovered):
        assert "old" not in verdict(past).status.message
        assert not verdict(past).hopeless
    assert verdict(older, READY).status.state == "ready"


texts = st.none() | st.text(max_size=20) | st.sampled_from([THEN, '{"message": "m"}', "{}", "not found"])
states = st.one_of(
    st.fixed_dictionaries({"waiting": st.fixed_dictionaries({}, optional={"reason": texts, "message": texts})}),
    st.fixed_dictionaries({"running": st.just({})}),
    st.fixed_dictionaries(
        {
            "terminated": st.fixed_dictionaries(
                {"exitCode": st.sampled_from([0, 1, 78, 137])}, optional={"message": texts}
            )
        }
    ),
    st.just({}),
)
containers = st.fixed_dictionaries(
    {"state": states},
    optional={
        "lastState": states,
        "ready": st.booleans(),
        "started": st.none() | st.booleans(),
        "restartCount": st.integers(0, 5),
    },
)
pods = st.builds(
    pod,
    name=st.sampled_from(["t-1", "t-2"]),
    container=st.none() | containers,
    ready=st.booleans(),
    spec=st.sampled_from(["s0", "s1"]),
    conditions=st.lists(st.just(UNSCHEDULABLE), max_size=1),
)


@given(st.lists(pods, max_size=3), st.integers(0, 3), st.lists(texts.map(lambda t: {"reason": t, "message": t or ""})))
def test_whatever_was_seen_there_is_a_state_and_it_never_contradicts_itself(
    seen: list[Any], replicas: int, said: list[Any]
) -> None:
    judged = judge(Observed(deployment(replicas), seen, {"t-1": said}), now=NOW, patience=PATIENCE)
    assert judged.status.state in get_args(RunnerState)
    assert judged.hopeless is (judged.status.state in {"failed", "stopped"})
    assert (judged.status.workers > 0) is (judged.status.state in {"ready", "degraded"})
