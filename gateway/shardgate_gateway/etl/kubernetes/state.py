"""How a transform is, in plain words, from what the watches saw of its objects. A pure function.

Its pods tell most of it (`pod_problems.py`), its Deployment the rest: what was noted at it when it was put to rest, and
that no pod can be made. What can't heal fails a start at once; what may heal is told at once, and fails it when it has
lasted too long (`patience`).

What can go wrong: words about the past. A pod that is being deleted counts no more, nor does the failure of one that
was made from an older version of its Deployment. A condition counts only when its controller has seen the newest
version of its object.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from shardgate_gateway.etl.kubernetes import names
from shardgate_gateway.etl.kubernetes.pod_problems import (
    Problem,
    condition_of,
    containers_of,
    is_ready,
    problem_of_ended,
    problem_of_pod,
    problem_of_refusal,
    time_of,
    unready_since,
)
from shardgate_gateway.etl.runner import RunnerState, RunnerStatus
from shardgate_gateway.kube.kinds import annotations_of, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from shardgate_gateway.kube.kinds import Object


class Observed(NamedTuple):
    """What the watches have of one transform. Events are warnings, by the name of their pod."""

    deployment: Object | None = None
    pods: Sequence[Object] = ()
    events: Mapping[str, Sequence[Object]] = {}


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
        return _at_rest(deployment, now)
    pods = [pod for pod in observed.pods if "deletionTimestamp" not in pod["metadata"]]
    ready = [pod for pod in pods if is_ready(pod)]
    newest = annotations_of(deployment).get(names.ANNOTATION_SPEC)
    current = [pod for pod in pods if annotations_of(pod).get(names.ANNOTATION_SPEC) == newest]
    over = [pod for pod in current if _phase(pod) == "Failed"]
    live = [pod for pod in current if pod not in over]
    problem = _problem_of(deployment) or _worst(live, observed.events) or problem_of_ended(over, now, patience)
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


def installing(what: str, until: datetime) -> str:
    """What a Deployment is annotated with while requirements are installed for its pods."""
    return json.dumps({"what": what, "until": until.isoformat()})


def _at_rest(deployment: Object, now: datetime) -> Verdict:
    notes = annotations_of(deployment)
    failure = Failure.of(deployment)
    if stopped := notes.get(names.ANNOTATION_STOPPED):
        hint = f"`shardgate etl start {notes[names.ANNOTATION_ID]}` starts it again"
        return Verdict(RunnerStatus("stopped", "somebody stopped it", hint, since=time_of(stopped)), hopeless=True)
    if failure is not None:
        return Verdict(RunnerStatus("failed", failure.message, failure.hint, since=failure.at), hopeless=True)
    note = json.loads(notes.get(names.ANNOTATION_INSTALLING) or "{}")
    if note and now < datetime.fromisoformat(note["until"]):
        return Verdict(RunnerStatus("starting", f"{note['what']} is being installed for it, once", "a Job does it"))
    since = time_of(notes.get(names.ANNOTATION_IDLE))
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
    return 2 if any("running" in status["state"] for status in containers_of(pod)) else 1


def _worst(pods: Iterable[Object], events: Mapping[str, Sequence[Object]]) -> Problem | None:
    problems = [p for pod in pods if not is_ready(pod) and (p := problem_of_pod(pod, events.get(name_of(pod), ())))]
    return min(problems, key=lambda problem: problem.heals, default=None)


def _problem_of(deployment: Object) -> Problem | None:
    """Pods that can't even be created: quota, admission, service account."""
    seen = deployment.get("status") or {}
    if int(seen.get("observedGeneration", 0)) < int(deployment["metadata"].get("generation", 0)):
        return None
    condition = condition_of(deployment, "ReplicaFailure")
    if condition.get("status") != "True":
        return None
    return problem_of_refusal(str(condition.get("message", "")), time_of(condition.get("lastTransitionTime")))


def _since(pods: Sequence[Object]) -> datetime | None:
    times = [unready_since(pod) for pod in pods]
    return min((time for time in times if time), default=None)


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", ""))
