"""Why a pod does not run, in plain words, from what the API server has of it. Pure functions.

Kubernetes tells it in half a dozen places: conditions of the pod, the waiting or last state of a container, what the
container wrote into its termination log, events. Each rule below looks at one of them and says what it means, what can
be done about it, and whether it can heal: an image that is not there will not come, but a node may.

What can go wrong: words about the past. The crash of a container that runs again counts only until it is up. A pod that
was ended, by an eviction say, stays where it is long after another took its place, so it counts for a while only. And
words about the wrong thing: a container that was ready when it ended has proved that it can start. What ended it was a
sample's doing, say, so it heals, however often.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shardgate_gateway.etl.runner import RunnerState
    from shardgate_gateway.kube.kinds import Object

USER_ERROR = 78
"""Exit code (EX_CONFIG) of a runtime that says itself why it can't start."""
KILLED = 137
CRASHES = 2
"""Ends of a container that never was ready, after which the next would be the same."""
REFUSALS = 3
"""Startup probes that nobody answers, one a second, before it is worth a word: every program takes a moment."""
MAX_WORDS = 1500


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a pod does not run. `heals`: it may, without anybody changing the transform."""

    message: str
    hint: str
    heals: bool
    state: RunnerState = "starting"
    since: datetime | None = None


def is_ready(pod: Object) -> bool:
    return "deletionTimestamp" not in pod["metadata"] and condition_of(pod, "Ready").get("status") == "True"


def problem_of_pod(pod: Object, events: Sequence[Object]) -> Problem | None:
    """Why this pod is not ready, if something is wrong with it."""
    scheduled = condition_of(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return Problem(
            f"no node fits: {scheduled.get('message', '')}",
            "ask for less (resources=, node_selector=), tolerate more, or add nodes",
            heals=True,
            state="pending",
            since=time_of(scheduled.get("lastTransitionTime")),
        )
    containers = containers_of(pod)
    for container in containers:
        if problem := _problem_of_container(container, pod, events):
            return problem
    if containers and not is_ready(pod) and all(container.get("ready") for container in containers):
        return Problem(
            "its node does not answer",
            "Kubernetes makes another pod elsewhere, if the node stays away",
            heals=True,
            since=unready_since(pod),
        )
    return _problem_of_mounts(pod, events)


def problem_of_refusal(said: str, since: datetime | None) -> Problem:
    """Why a pod can't even be created, as its controller was told: quota, admission, service account."""
    reason = re.sub(r'^(Error creating: )?(pods "[^"]*" is forbidden: )?', "", said)
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


def problem_of_ended(pods: Iterable[Object], now: datetime, patience: float) -> Problem | None:
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
        if event["message"].startswith("Startup"):
            return None  # it has answered since, and is asked whether it is ready next
        return Problem(message, "its log may tell why", heals=True, since=_silent_since(container, pod, event))
    answered = "statuscode" in event["message"]
    about_to = _is_ours(pod) or event.get("count", 1) < REFUSALS
    if "statuscode: 503" in event["message"] or (about_to and not answered):
        return None
    return Problem(message, "is it slow to start, or are its port and its health path others? see its log", heals=True)


def _silent_since(container: Object, pod: Object, event: Object) -> datetime | None:
    """Not before this run began, whatever the pod waited for until then: its image, for one, may take minutes."""
    times = (container["state"]["running"].get("startedAt"), event.get("firstTimestamp"))
    return max((time for time in (unready_since(pod), *map(time_of, times)) if time), default=None)


def _is_ours(pod: Object) -> bool:
    """Whether it runs our runtime, which listens when it has imported the user's code (torch alone takes seconds)."""
    return any(
        "shardgate_runtime" in (container.get("command") or ()) for container in pod["spec"].get("containers") or ()
    )


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
    since = time_of(ended.get("finishedAt"))
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
    since, began = time_of(condition_of(pod, "Ready").get("lastTransitionTime")), time_of(ended.get("startedAt"))
    return since is not None and began is not None and since > began


def _own_words(said: str) -> tuple[str, str] | None:
    """What our runtime wrote into its termination log: its message and hint."""
    try:
        words = json.loads(said)
        return str(words["message"]), str(words.get("hint", ""))
    except (ValueError, TypeError, KeyError):
        return None


def _problem_of_mounts(pod: Object, events: Sequence[Object]) -> Problem | None:
    if condition_of(pod, "PodReadyToStartContainers").get("status") == "True":
        return None  # all is there, and what takes time now is the image
    for event in reversed(events):
        if event.get("reason") in {"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"}:
            if any("running" in container["state"] for container in containers_of(pod)):
                return None
            return Problem(
                f"its pod can't be set up on its node: {event.get('message', '')}",
                "Kubernetes goes on trying; the operator can see more with `kubectl describe pod`",
                heals=True,
                since=_created(pod),
            )
    return None


def containers_of(pod: Object) -> list[Object]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _memory_limit(pod: Object, name: str) -> str:
    for container in pod["spec"].get("containers") or ():
        if container["name"] == name:
            return str(((container.get("resources") or {}).get("limits") or {}).get("memory", "?"))
    return "?"


def condition_of(obj: Object, kind: str) -> Object:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _created(pod: Object) -> datetime | None:
    return time_of(pod["metadata"].get("creationTimestamp"))


def unready_since(pod: Object) -> datetime | None:
    return time_of(condition_of(pod, "Ready").get("lastTransitionTime")) or _created(pod)


def _ended_at(pod: Object) -> datetime | None:
    times = [unready_since(pod), *(time_of(run.get("finishedAt")) for run in _runs(pod))]
    return max((time for time in times if time), default=None)


def _runs(pod: Object) -> list[Object]:
    """The last run of each container that ended."""
    return [ended for container in containers_of(pod) if (ended := container["state"].get("terminated"))]


def time_of(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
