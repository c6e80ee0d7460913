"""How a transform is, in plain words, from what the watches saw of its objects. A pure function.

Kubernetes tells why a pod does not run in half a dozen places: conditions of the pod and of the Deployment, the waiting
or last state of a container, what the container wrote into its termination log, events. Each rule below looks at one of
them and says what it means, what can be done about it, and whether it can heal: an image that is not there will not
come, but a node may. What can't heal fails a start at once; what may heal is told at once, and fails it when it has
lasted too long (`patience`).

What can go wrong: words about the past. A pod that is being deleted counts no more, nor does the failure of one that
was made from an older version of its Deployment. A pod that was ended, by an eviction say, stays where it is long after
another took its place, so it counts for a while only. A condition counts only when its controller has seen the newest
version of its object, and the crash of a container that runs again only until it is up. And words about the wrong
thing: a container that was ready when it ended has proved that it can start. What ended it was a sample's doing, say,
so it heals, however often.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.etl.runner import RunnerState, RunnerStatus
from shardgate_gateway.kube.kinds import annotations_of, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shardgate_gateway.kube.kinds import Object

USER_ERROR = 78
"""Exit code (EX_CONFIG) of a runtime that says itself why it can't start."""
KILLED = 137
CRASHES = 2
"""Ends of a container that never was ready, after which the next would be the same."""
REFUSALS = 3
"""Startup probes that nobody answers, one a second, before it is worth a word: every program takes a moment."""
MAX_WORDS = 1500


class Observed(NamedTuple):
    """What the watches have of one transform. Events are warnings, by the name of their pod."""

    deployment: Object | None = None
    pods: Sequence[Object] = ()
    events: Mapping[str, Sequence[Object]] = {}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a pod does not run. `heals`: it may, without anybody changing the transform."""

    message: str
    hint: str
    heals: bool
    state: RunnerState = "starting"
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of a transform. `hopeless`: waiting for it to be ready makes no sense (any more)."""

    status: RunnerStatus
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """A start that failed, as it is remembered at the Deployment."""

    message: str
    hint: str
    at: datetime = field(default_factory=lambda: datetime.now().astimezone())

    def dump(self) -> str:
        return json.dumps({"message": self.message, "hint": self.hint, "at": self.at.isoformat()})

    @classmethod
    def of(cls, deployment: Object) -> Failure | None:
        said = annotations_of(deployment).get(names.ANNOTATION_FAILED)
        if not said:
            return None
        values = json.loads(said)
        return cls(values["message"], values["hint"], datetime.fromisoformat(values["at"]))


def judge(observed: Observed, *, now: datetime, patience: float) -> Verdict:
    """The state of a transform.

    Args:
        observed: Its objects.
        now: The time.
        patience: Seconds that a problem which may heal may last.
    """
    deployment = observed.deployment
    if deployment is None:
        return Verdict(RunnerStatus("pending", "nobody has asked for it yet"))
    wanted = int(deployment["spec"].get("replicas", 1))
    if wanted == 0:
        return _at_rest(deployment)
    pods = [pod for pod in observed.pods if "deletionTimestamp" not in pod["metadata"]]
    ready = [pod for pod in pods if is_ready(pod)]
    newest = annotations_of(deployment).get(names.ANNOTATION_SPEC)
    current = [pod for pod in pods if annotations_of(pod).get(names.ANNOTATION_SPEC) == newest]
    over = [pod for pod in current if _phase(pod) == "Failed"]
    live = [pod for pod in current if pod not in over]
    problem = _problem_of(deployment) or _worst(live, observed.events) or _problem_of_ended(over, now, patience)
    since = _since(ready or current)
    if ready:
        return Verdict(_running(len(ready), wanted, problem, since))
    if problem is None:
        state, message = _progress(live)
        return Verdict(RunnerStatus(state, message, since=since))
    lasted = (now - problem.since).total_seconds() if problem.since else 0.0
    hopeless = not problem.heals or lasted >= patience
    state = "failed" if hopeless else problem.state
    return Verdict(RunnerStatus(state, problem.message, problem.hint, since=problem.since or since), hopeless)


def is_ready(pod: Object) -> bool:
    return "deletionTimestamp" not in pod["metadata"] and _condition(pod, "Ready").get("status") == "True"


def _at_rest(deployment: Object) -> Verdict:
    notes = annotations_of(deployment)
    failure = Failure.of(deployment)
    if stopped := notes.get(names.ANNOTATION_STOPPED):
        hint = f"`shardgate etl start {notes[names.ANNOTATION_ID]}` starts it again"
        return Verdict(RunnerStatus("stopped", "somebody stopped it", hint, since=_time(stopped)), hopeless=True)
    if failure is not None:
        return Verdict(RunnerStatus("failed", failure.message, failure.hint, since=failure.at), hopeless=True)
    since = _time(notes.get(names.ANNOTATION_IDLE))
    return Verdict(RunnerStatus("idle", "nobody asked for a while; the next request starts it", since=since))


def _running(ready: int, wanted: int, problem: Problem | None, since: datetime | None) -> RunnerStatus:
    count = f"{ready} of {wanted} pods are ready" if ready < wanted else ""
    if problem is None:
        return RunnerStatus("ready", count, workers=ready, since=since)
    beginning = count or "it answers, but pods that shall replace its own do not start"
    return RunnerStatus("degraded", f"{beginning}: {problem.message}", problem.hint, ready, since)


def _progress(pods: Sequence[Object]) -> tuple[RunnerState, str]:
    """What a start without problems is at."""
    if not pods:
        return "pending", "waiting for its pod to be created"
    furthest = max(pods, key=_stage)
    return (
        ("pending", "waiting for a node"),
        ("starting", "its image is being pulled and its container created"),
        ("starting", "its runtime is fetching the package and loading it"),
    )[_stage(furthest)]


def _stage(pod: Object) -> int:
    if not pod["spec"].get("nodeName"):
        return 0
    return 2 if any("running" in status["state"] for status in _containers(pod)) else 1


def _worst(pods: Iterable[Object], events: Mapping[str, Sequence[Object]]) -> Problem | None:
    problems = [p for pod in pods if not is_ready(pod) and (p := problem_of_pod(pod, events.get(name_of(pod), ())))]
    return min(problems, key=lambda problem: problem.heals, default=None)


def _problem_of(deployment: Object) -> Problem | None:
    """Pods that can't even be created: quota, admission, service account."""
    seen = deployment.get("status") or {}
    if int(seen.get("observedGeneration", 0)) < int(deployment["metadata"].get("generation", 0)):
        return None
    condition = _condition(deployment, "ReplicaFailure")
    if condition.get("status") != "True":
        return None
    since, said = _time(condition.get("lastTransitionTime")), str(condition.get("message", ""))
    reason = re.sub(r'^pods "[^"]*" is forbidden: ', "", said)
    if "exceeded quota" in reason:
        return Problem(
            f"the namespace's quota is used up: {reason.removeprefix('exceeded quota: ')}",
            "ask for less (resources=), stop other transforms, or have the operator raise the ResourceQuota",
            heals=False,
            since=since,
        )
    return Problem(
        f"the cluster does not admit its pod: {reason}",
        "the message names the rule; the operator of the namespace can tell why it is there",
        heals=False,
        since=since,
    )


def problem_of_pod(pod: Object, events: Sequence[Object]) -> Problem | None:
    """Why this pod is not ready, if something is wrong with it."""
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return Problem(
            f"no node fits: {scheduled.get('message', '')}",
            "ask for less (resources=, node_selector=), tolerate more, or add nodes",
            heals=True,
            state="pending",
            since=_time(scheduled.get("lastTransitionTime")),
        )
    containers = _containers(pod)
    for container in containers:
        if problem := _problem_of_container(container, pod, events):
            return problem
    if containers and not is_ready(pod) and all(container.get("ready") for container in containers):
        return Problem(
            "its node does not answer",
            "Kubernetes makes another pod elsewhere, if the node stays away",
            heals=True,
            since=_unready_since(pod),
        )
    return _problem_of_mounts(pod, events)


def _problem_of_ended(pods: Iterable[Object], now: datetime, patience: float) -> Problem | None:
    """Pods that were ended as a whole. Another takes the place of each, and may do better, or end in the same way."""
    dated = [(at, pod) for pod in pods if (at := _ended_at(pod))]
    lately = [(at, pod) for at, pod in dated if (now - at).total_seconds() < patience]
    if not lately:
        return None
    since, last = max(lately, key=lambda ended: ended[0])
    status = last["status"]
    in_vain = [pod for _, pod in lately if not any(_was_ready(pod, run) for run in _runs(pod))]
    return Problem(
        f"its pod was ended ({status.get('reason', 'Failed')}): {status.get('message', '')}",
        "it wrote more than its disk limit, or its node was short of something",
        heals=len(in_vain) < CRASHES,
        since=since,
    )


def _problem_of_container(container: Object, pod: Object, events: Sequence[Object]) -> Problem | None:
    state = container["state"]
    waiting = state.get("waiting") or {}
    reason = waiting.get("reason", "")
    if reason in _IMAGE:
        return _problem_of_image(container, reason, str(waiting.get("message", "")), pod)
    if reason in {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError"}:
        return Problem(
            f"its container can't be created: {waiting.get('message', reason)}",
            "are the secrets that it asks for there, with keys that can be environment variables?",
            heals=False,
            since=_created(pod),
        )
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if ended and (problem := _problem_of_end(container, ended, pod, events)):
        return problem
    return _problem_of_probes(container, pod, events) if "running" in state and not container.get("ready") else None


def _problem_of_probes(container: Object, pod: Object, events: Sequence[Object]) -> Problem | None:
    """A program that runs and does not answer as it should. Until it has done so once, its start sets the limit."""
    event = next((event for event in reversed(events) if event.get("reason") == "Unhealthy"), None)
    if event is None:
        return None
    message = f"it runs and does not answer: {event['message']}"
    if container.get("started"):
        return Problem(message, "its log may tell why", heals=True, since=_unready_since(pod))
    answered = "statuscode" in event["message"]
    if "statuscode: 503" in event["message"] or (not answered and event.get("count", 1) < REFUSALS):
        return None  # it is about to
    return Problem(message, "is it slow to start, or are its port and its health path others? see its log", heals=True)


_IMAGE = frozenset(
    (
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    )
)
_NO_IMAGE = (
    "not found",
    "notfound",
    "manifest unknown",
    "unauthorized",
    "denied",
    "forbidden",
    "no match for platform",
)


def _problem_of_image(container: Object, reason: str, said: str, pod: Object) -> Problem:
    certain = reason in {"InvalidImageName", "ErrImageNeverPull"} or any(word in said.lower() for word in _NO_IMAGE)
    image = container.get("image", "")
    why = re.sub(r"^.*?(rpc error: code = \w+ desc = |ErrImagePull: )+", "", said) or reason
    return Problem(
        f"its image {image} can't be pulled: {why}",
        "is the name right, and may the cluster read that registry? see kubernetes.images and kubernetes.pull_secrets",
        heals=not certain,
        since=_created(pod),
    )


def _problem_of_end(container: Object, ended: Object, pod: Object, events: Sequence[Object]) -> Problem | None:
    """What a container that ended says about its next run, if anything."""
    code, said = int(ended.get("exitCode", 0)), str(ended.get("message") or "").strip()
    since = _time(ended.get("finishedAt"))
    own = _own_words(said)
    if own and code == USER_ERROR:
        return Problem(*own, heals=False, since=since)
    proved = bool(container.get("started")) or _was_ready(pod, ended)
    if ended.get("reason") == "OOMKilled":
        limit = _memory_limit(pod, container["name"])
        return Problem(
            f"its memory limit of {limit} is too small: it was killed when it needed more",
            'give it more: resources={"memory": "4Gi"}',
            heals=proved,
            since=since,
        )
    if ended.get("reason") in {"StartError", "ContainerCannotRun"}:
        return Problem(
            f"its container can't run: {said}",
            "does the image hold the program that is to run?",
            heals=False,
            since=since,
        )
    if container.get("started"):
        return None
    ends = int(container.get("restartCount", 0)) + ("terminated" in container["state"])
    looping = (container["state"].get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    slow = any("Startup probe failed" in event.get("message", "") for event in events) and code in {0, KILLED, 143}
    when = "and is started again" if proved else "while it started"
    if slow and not proved:
        message, hint = "it was not ready in time", "see its log, or raise etl.start_timeout"
    elif code == KILLED:
        message, hint = f"it was killed {when}", "was it out of memory? its log may tell"
    else:
        message, hint = f"it ended with exit code {code} {when}", "see its log"
    if own:
        message, hint = own
    elif said:
        message += f": {said[-MAX_WORDS:]}"
    return Problem(message, hint, heals=proved or (ends < CRASHES and not looping), since=since)


def _was_ready(pod: Object, ended: Object) -> bool:
    """Whether the pod was ready in the run that ended: then it ceased to be so after that run began."""
    since, began = _time(_condition(pod, "Ready").get("lastTransitionTime")), _time(ended.get("startedAt"))
    return since is not None and began is not None and since > began


def _own_words(said: str) -> tuple[str, str] | None:
    """What our runtime wrote into its termination log: its message and hint."""
    try:
        words = json.loads(said)
        return str(words["message"]), str(words.get("hint", ""))
    except (ValueError, TypeError, KeyError):
        return None


def _problem_of_mounts(pod: Object, events: Sequence[Object]) -> Problem | None:
    for event in reversed(events):
        if event.get("reason") in {"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"}:
            if any("running" in container["state"] for container in _containers(pod)):
                return None
            return Problem(
                f"its pod can't be set up on its node: {event.get('message', '')}",
                "Kubernetes goes on trying; the operator can see more with `kubectl describe pod`",
                heals=True,
                since=_created(pod),
            )
    return None


def _containers(pod: Object) -> list[Object]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _memory_limit(pod: Object, name: str) -> str:
    for container in pod["spec"].get("containers") or ():
        if container["name"] == name:
            return str(((container.get("resources") or {}).get("limits") or {}).get("memory", "?"))
    return "?"


def _condition(obj: Object, kind: str) -> Object:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _since(pods: Sequence[Object]) -> datetime | None:
    times = [_unready_since(pod) for pod in pods]
    return min((time for time in times if time), default=None)


def _created(pod: Object) -> datetime | None:
    return _time(pod["metadata"].get("creationTimestamp"))


def _unready_since(pod: Object) -> datetime | None:
    return _time(_condition(pod, "Ready").get("lastTransitionTime")) or _created(pod)


def _ended_at(pod: Object) -> datetime | None:
    times = [_unready_since(pod), *(_time(run.get("finishedAt")) for run in _runs(pod))]
    return max((time for time in times if time), default=None)


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def _runs(pod: Object) -> list[Object]:
    """The last run of each container that ended."""
    return [ended for container in _containers(pod) if (ended := container["state"].get("terminated"))]


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
